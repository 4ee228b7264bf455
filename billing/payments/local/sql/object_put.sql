INSERT INTO local_objects (kind, id, customer_id, order_id, parent_id, state, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (kind, id) DO UPDATE SET state = excluded.state, parent_id = coalesce(local_objects.parent_id, excluded.parent_id)
