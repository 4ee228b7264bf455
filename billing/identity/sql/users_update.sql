UPDATE users SET name = $2, status = $3, operator = $4 WHERE id = $1 RETURNING *
