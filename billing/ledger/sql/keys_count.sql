SELECT count(*) FROM api_keys
WHERE account_id = $1 AND user_id IS NOT DISTINCT FROM $2
    AND (revoked_at IS NULL OR revoked_at > now()) AND (expires_at IS NULL OR expires_at > now())
