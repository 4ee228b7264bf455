INSERT INTO local_events (id, type, object_kind, object_id, created_at) VALUES ($1, $2, $3, $4, $5)
