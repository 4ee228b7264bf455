SELECT id, type, object_kind, object_id, created_at FROM local_events WHERE delivered_at IS NULL ORDER BY id LIMIT $1
