SELECT state FROM local_objects WHERE kind = $1 AND id = $2 FOR UPDATE
