-- Disable an endpoint and give up what waits for it.
WITH ended AS (
    UPDATE webhook_endpoints SET disabled_at = now(), disabled_reason = $2 WHERE id = $1 AND disabled_at IS NULL
    RETURNING id, account_id, url
), parked AS (
    UPDATE webhook_deliveries SET parked_at = now(), error = coalesce(error, 'the endpoint is disabled')
    WHERE endpoint_id = $1 AND delivered_at IS NULL AND parked_at IS NULL
)
SELECT id, account_id, url FROM ended
