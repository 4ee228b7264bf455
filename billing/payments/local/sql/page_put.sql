INSERT INTO local_pages (id_sha256, kind, object_id, urls, expires_at) VALUES ($1, $2, $3, $4, $5)
