-- Lots that expire by $1, the oldest first, after the place ($2, $3), $4 at most.
SELECT id, account_id, expires_at FROM lots
WHERE left_nano > 0 AND expires_at <= $1 AND (expires_at, id) > ($2, $3)
ORDER BY expires_at, id LIMIT $4
