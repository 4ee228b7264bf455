-- Take a step's code, which nobody takes again, nor one before it; the secret is stored as $3 from now on.
UPDATE users SET totp_last_step = $2, totp_secret = $3
WHERE id = $1 AND totp_confirmed_at IS NOT NULL AND (totp_last_step IS NULL OR totp_last_step < $2) RETURNING id
