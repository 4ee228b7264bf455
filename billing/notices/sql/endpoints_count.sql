SELECT count(*) FROM webhook_endpoints WHERE account_id IS NOT DISTINCT FROM $1
