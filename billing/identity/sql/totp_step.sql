-- Take a step's code, which nobody takes again, nor one before it.
UPDATE users SET totp_last_step = $2
WHERE id = $1 AND totp_confirmed_at IS NOT NULL AND (totp_last_step IS NULL OR totp_last_step < $2) RETURNING id
