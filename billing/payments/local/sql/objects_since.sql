SELECT id, created_at FROM local_objects WHERE kind = $1 AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4
