-- Begin the next comparison with provider $1 if it is due at $2, or an operator has asked for it; it looks back to what
-- they asked for, else to $3. It is due if none has begun since $4, or since $5 where the last one was broken off.
INSERT INTO payment_comparisons AS known (provider, since, began_at) VALUES ($1, $3, $2)
ON CONFLICT (provider) DO UPDATE
SET since = coalesce(known.asked_since, $3), began_at = $2, ended_at = NULL, asked_since = NULL, error = NULL
WHERE known.asked_since IS NOT NULL OR known.began_at IS NULL OR known.began_at <= $4
    OR (known.began_at <= $5 AND (known.ended_at IS NULL OR known.error IS NOT NULL))
RETURNING since
