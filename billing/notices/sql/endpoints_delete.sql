DELETE FROM webhook_endpoints WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING id
