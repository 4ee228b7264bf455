-- Claim up to $2 budgets that no gateway has looked at for $1 seconds, those of the longest ago first, with the time zones of
-- their accounts.
UPDATE budgets AS b SET looked_at = now()
FROM accounts AS a
WHERE a.id = b.account_id AND b.id IN (
    SELECT id FROM budgets WHERE looked_at <= now() - make_interval(secs => $1) ORDER BY looked_at, id LIMIT $2
    FOR UPDATE SKIP LOCKED
)
RETURNING b.*, a.tz
