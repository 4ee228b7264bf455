SELECT * FROM orders WHERE id = $1 AND account_id = coalesce($2, account_id)
