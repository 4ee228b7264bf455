SELECT d.*, n.type FROM webhook_deliveries d
JOIN webhook_endpoints e ON e.id = d.endpoint_id
JOIN notices n ON n.id = d.notice_id
WHERE d.endpoint_id = $1 AND e.account_id IS NOT DISTINCT FROM $2
    AND ($3::timestamptz IS NULL OR (d.created_at, d.id) < ($3, $4))
ORDER BY d.created_at DESC, d.id DESC LIMIT $5
