-- Revoke every key of a user.
UPDATE api_keys SET revoked_at = now(), version = version + 1
WHERE user_id = $1 AND (revoked_at IS NULL OR revoked_at > now())
RETURNING id, account_id, prefix
