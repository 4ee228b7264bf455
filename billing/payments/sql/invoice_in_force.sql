-- The subscription which has not ended whose present period, or with $3 any period, invoice $2 is for.
SELECT s.id FROM payment_objects o JOIN subscriptions s ON s.provider = o.provider AND s.id = o.state ->> 'subscription_id'
WHERE o.provider = $1 AND o.kind = 'invoice' AND o.id = $2 AND s.status <> 'canceled' AND ($3 OR EXISTS (
    SELECT FROM jsonb_array_elements(o.state -> 'lines') line
    WHERE line ->> 'kind' = 'subscription' AND (line ->> 'period_end')::timestamptz = s.period_end))
