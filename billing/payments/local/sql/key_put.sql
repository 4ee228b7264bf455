INSERT INTO local_keys (key, digest, answer, created_at) VALUES ($1, $2, $3, $4)
