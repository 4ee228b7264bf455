-- What of account $1 expires next, and when.
SELECT expires_at, sum(left_now)::bigint AS left_nano
FROM lots_now WHERE account_id = $1 AND expires_at IS NOT NULL AND left_now > 0
GROUP BY expires_at ORDER BY expires_at LIMIT 1
