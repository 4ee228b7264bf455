UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + $4 * interval '1 second', secret = $3
WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING *
