-- Pages of account $1 at which a plan may still be paid for, or was and its subscription was not seen yet; but for the
-- order of key $2. The newest $3.
SELECT id, checkout_id FROM orders
WHERE account_id = $1 AND idempotency_key <> $2 AND kind = 'plan' AND provider = $4
    AND status IN ('open', 'failed', 'paid') AND checkout_id IS NOT NULL AND expires_at > now()
ORDER BY id DESC LIMIT $3
