SELECT d.*, n.type FROM webhook_deliveries d
JOIN webhook_endpoints e ON e.id = d.endpoint_id
JOIN notices n ON n.id = d.notice_id
WHERE d.id = $1 AND d.endpoint_id = $2 AND e.account_id IS NOT DISTINCT FROM $3
