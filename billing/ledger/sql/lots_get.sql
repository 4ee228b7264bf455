-- A lot by its id or by the transfer that made it, as it is now.
SELECT lots.*, coalesce(lots_now.left_now, 0)::bigint AS left_now
FROM lots LEFT JOIN lots_now ON lots_now.id = lots.id AND lots_now.account_id = $1
WHERE lots.account_id = $1 AND (lots.id = $2 OR lots.transfer_id = $2)
