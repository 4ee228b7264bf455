-- Take one of the tries of the code of an id and purpose.
UPDATE one_time_codes SET attempts = attempts + 1
WHERE id = $1 AND purpose = $2 AND attempts < $3 AND used_at IS NULL AND expires_at > now()
RETURNING id, email, digest, context, user_id
