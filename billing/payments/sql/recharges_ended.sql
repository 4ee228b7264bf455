UPDATE auto_recharges SET state = $2, reason = $3, url = $4, declines = $5, next_attempt_at = $6,
    enabled = enabled AND $2 <> 'stopped', updated_at = now()
WHERE account_id = $1
