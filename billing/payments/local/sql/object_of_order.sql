SELECT state FROM local_objects WHERE kind = $1 AND order_id = $2 ORDER BY created_at DESC, id DESC LIMIT 1
