SELECT kind, object_id, urls FROM local_pages WHERE id_sha256 = $1 AND expires_at > $2
