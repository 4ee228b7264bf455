-- Use up a code that was right, and end the others for the same address and purpose.
WITH used AS (
    UPDATE one_time_codes SET used_at = now() WHERE id = $1 AND used_at IS NULL RETURNING email, purpose
), others AS (
    UPDATE one_time_codes o SET used_at = now() FROM used
    WHERE o.email = used.email AND o.purpose = used.purpose AND o.id <> $1 AND o.used_at IS NULL
)
SELECT true FROM used
