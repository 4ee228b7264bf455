-- The account's plan, and what its subscriptions say of the period that it is in.
SELECT a.plan, a.created_at, s.period_start, s.period_end, s.created_at AS anchor
FROM accounts a LEFT JOIN LATERAL (
    SELECT period_start, period_end, created_at FROM subscriptions
    WHERE account_id = a.id AND plan = a.plan AND status IN ('active', 'trialing', 'past_due')
    ORDER BY period_end DESC LIMIT 1
) s ON true
WHERE a.id = $1
