-- Statements of `billing.payments.local`, each under its name. `billing.database.connection.queries` reads them.

-- name: checkouts_due
SELECT id FROM local_objects
WHERE kind = 'checkout' AND state ->> 'status' = 'open' AND (state ->> 'expires_at')::timestamptz <= $1
ORDER BY id LIMIT $2

-- name: event_delivered
UPDATE local_events SET delivered_at = now() WHERE id = $1

-- name: event_put
INSERT INTO local_events (id, type, object_kind, object_id, created_at) VALUES ($1, $2, $3, $4, $5)

-- name: events_waiting
SELECT id, type, object_kind, object_id, created_at FROM local_events WHERE delivered_at IS NULL ORDER BY id LIMIT $1

-- name: forget
WITH pages AS (
    DELETE FROM local_pages WHERE id_sha256 IN (SELECT id_sha256 FROM local_pages WHERE expires_at < $1 LIMIT $2)
), keys AS (
    DELETE FROM local_keys WHERE key IN (SELECT key FROM local_keys WHERE created_at < $1 LIMIT $2)
)
DELETE FROM local_events WHERE id IN (SELECT id FROM local_events WHERE delivered_at < $1 LIMIT $2)

-- name: key_get
SELECT digest, answer FROM local_keys WHERE key = $1

-- name: key_lock
SELECT pg_advisory_xact_lock(hashtextextended($1, 0))

-- name: key_put
INSERT INTO local_keys (key, digest, answer, created_at) VALUES ($1, $2, $3, $4)

-- name: object_get
SELECT state FROM local_objects WHERE kind = $1 AND id = $2

-- name: object_lock
SELECT state FROM local_objects WHERE kind = $1 AND id = $2 FOR UPDATE

-- name: object_of_order
SELECT state FROM local_objects WHERE kind = $1 AND order_id = $2 ORDER BY created_at DESC, id DESC LIMIT 1

-- name: object_put
INSERT INTO local_objects (kind, id, customer_id, order_id, parent_id, state, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (kind, id) DO UPDATE SET state = excluded.state, parent_id = coalesce(local_objects.parent_id, excluded.parent_id)

-- name: objects_of_customer
SELECT state FROM local_objects WHERE kind = $1 AND customer_id = $2 ORDER BY created_at DESC, id DESC LIMIT $3

-- name: objects_of_parent
SELECT state FROM local_objects WHERE kind = $1 AND parent_id = $2 ORDER BY created_at, id

-- name: objects_since
SELECT id, created_at FROM local_objects WHERE kind = $1 AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4

-- name: page_get
SELECT kind, object_id, urls FROM local_pages WHERE id_sha256 = $1 AND expires_at > $2

-- name: page_put
INSERT INTO local_pages (id_sha256, kind, object_id, urls, expires_at) VALUES ($1, $2, $3, $4, $5)

-- name: subscriptions_due
SELECT id FROM local_objects
WHERE kind = 'subscription' AND state ->> 'status' IN ('active', 'past_due') AND (state ->> 'period_end')::timestamptz <= $1
ORDER BY (state ->> 'period_end')::timestamptz LIMIT $2
