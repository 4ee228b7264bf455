SELECT account_id, version, quotas, clock_timestamp() AS now FROM api_keys WHERE id = $1
