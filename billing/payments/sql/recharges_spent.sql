-- What auto-recharge has charged account $1 since $2, or may still charge, but for the order of key $3.
SELECT coalesce(sum(amount_cents), 0)::bigint FROM orders
WHERE account_id = $1 AND kind = 'recharge' AND created_at >= $2 AND status NOT IN ('failed', 'expired')
    AND idempotency_key <> $3
