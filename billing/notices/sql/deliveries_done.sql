WITH mended AS (
    UPDATE webhook_endpoints e SET failing_since = NULL FROM webhook_deliveries d
    WHERE d.id = $1 AND e.id = d.endpoint_id AND e.failing_since IS NOT NULL
)
UPDATE webhook_deliveries SET delivered_at = now(), status = $2, error = NULL WHERE id = $1
