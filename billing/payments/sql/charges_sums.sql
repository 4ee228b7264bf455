-- What customers paid from $1 on and before $2, and what of these payments went back to them so far, in cents of $3.
SELECT count(*) AS payments, coalesce(sum((state ->> 'total_cents')::bigint), 0)::bigint AS paid_cents,
    coalesce(sum((
        SELECT sum((r ->> 'amount_cents')::bigint) FROM jsonb_array_elements(state -> 'refunds') AS r
        WHERE r ->> 'status' NOT IN ('failed', 'canceled')
    )), 0)::bigint AS refunded_cents,
    coalesce(-sum((
        SELECT sum((m ->> 'amount_cents')::bigint)
        FROM jsonb_array_elements(state -> 'disputes') AS d, jsonb_array_elements(d -> 'movements') AS m
    )), 0)::bigint AS disputed_cents
FROM payment_objects
WHERE kind = 'payment' AND state ->> 'status' = 'paid' AND state ->> 'currency' = $3
    AND created_at >= $1 AND created_at < $2
