SELECT state FROM local_objects WHERE kind = $1 AND parent_id = $2 ORDER BY created_at, id
