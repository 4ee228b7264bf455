-- Store a subscription's present state. Its plan stays where its price has none any more; `past_due_since` while it is past due.
INSERT INTO subscriptions (provider, id, account_id, status, plan, next_plan, period_start, period_end, ends_at, past_due_since,
    created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (provider, id) DO UPDATE SET status = excluded.status, plan = coalesce(excluded.plan, subscriptions.plan),
    next_plan = excluded.next_plan, period_start = excluded.period_start, period_end = excluded.period_end,
    ends_at = excluded.ends_at,
    past_due_since = CASE WHEN excluded.past_due_since IS NOT NULL
        THEN coalesce(subscriptions.past_due_since, excluded.past_due_since) END,
    updated_at = now()
WHERE subscriptions.account_id = excluded.account_id
RETURNING account_id
