-- Set what an account asks of auto-recharge. Counts start again, but for an attempt under way, which ends first.
INSERT INTO auto_recharges AS r (account_id, enabled, threshold_nano, amount_cents, monthly_cap_cents, state, next_attempt_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $2 THEN 'ready' ELSE 'off' END, $6)
ON CONFLICT (account_id) DO UPDATE SET
    enabled = excluded.enabled, threshold_nano = excluded.threshold_nano, amount_cents = excluded.amount_cents,
    monthly_cap_cents = excluded.monthly_cap_cents,
    state = CASE WHEN r.state = 'charging' THEN r.state ELSE excluded.state END,
    next_attempt_at = CASE WHEN r.state = 'charging' THEN r.next_attempt_at ELSE excluded.next_attempt_at END,
    reason = NULL, url = NULL, declines = 0, updated_at = now()
RETURNING *
