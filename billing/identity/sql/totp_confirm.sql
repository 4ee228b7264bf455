UPDATE users SET totp_confirmed_at = now(), totp_last_step = $3
WHERE id = $1 AND totp_secret = $2 AND totp_confirmed_at IS NULL RETURNING id
