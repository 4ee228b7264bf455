SELECT state FROM local_objects WHERE kind = $1 AND customer_id = $2 ORDER BY created_at DESC, id DESC LIMIT $3
