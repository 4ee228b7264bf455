SELECT version, plan, quotas, clock_timestamp() AS now FROM accounts WHERE id = $1
