-- Use up the code of a step, and those of earlier steps; the secret is stored as $3 from now on.
UPDATE users SET totp_last_step = $2, totp_secret = $3
WHERE id = $1 AND totp_confirmed_at IS NOT NULL AND (totp_last_step IS NULL OR totp_last_step < $2) RETURNING id
