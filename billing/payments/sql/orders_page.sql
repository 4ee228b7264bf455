SELECT * FROM orders
WHERE id < $1 AND account_id = coalesce($2, account_id) AND status = coalesce($3, status)
ORDER BY id DESC LIMIT $4
