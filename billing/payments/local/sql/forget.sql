WITH pages AS (
    DELETE FROM local_pages WHERE id_sha256 IN (SELECT id_sha256 FROM local_pages WHERE expires_at < $1 LIMIT $2)
), keys AS (
    DELETE FROM local_keys WHERE key IN (SELECT key FROM local_keys WHERE created_at < $1 LIMIT $2)
)
DELETE FROM local_events WHERE id IN (SELECT id FROM local_events WHERE delivered_at < $1 LIMIT $2)
