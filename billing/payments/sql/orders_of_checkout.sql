-- What a hosted page has come to: a subscription, or that nobody paid in time. Its payment is noted when it is applied.
UPDATE orders SET
    subscription_id = coalesce(subscription_id, $3),
    status = CASE WHEN $4 AND status IN ('open', 'failed') THEN 'expired' ELSE status END,
    updated_at = now()
WHERE id = $1 AND provider = $2
