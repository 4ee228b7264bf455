-- Lots of account $1, newest first, before $2; with $4 those alone of which something is left.
SELECT lots.*, coalesce(lots_now.left_now, 0)::bigint AS left_now
FROM lots LEFT JOIN lots_now ON lots_now.id = lots.id AND lots_now.account_id = $1
WHERE lots.account_id = $1 AND lots.id < $2 AND (NOT $4::boolean OR coalesce(lots_now.left_now, 0) > 0)
ORDER BY lots.id DESC LIMIT $3
