UPDATE recovery_codes SET used_at = now() WHERE user_id = $1 AND digest = $2 AND used_at IS NULL
RETURNING (SELECT count(*) FROM recovery_codes WHERE user_id = $1 AND used_at IS NULL) - 1
