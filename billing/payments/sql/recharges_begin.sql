-- Begin an attempt; one that was interrupted goes on under its number.
UPDATE auto_recharges SET attempt = attempt + (state <> 'charging')::integer, state = 'charging', next_attempt_at = $2,
    updated_at = now()
WHERE account_id = $1 RETURNING *
