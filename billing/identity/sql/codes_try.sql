-- Take one of the tries of a code that stands: the one of this id ($3), else the newest of the address and purpose. No row
-- where there is none, or its tries are used up.
UPDATE one_time_codes SET attempts = attempts + 1
WHERE id = (
    SELECT id FROM one_time_codes
    WHERE email = $1 AND purpose = $2 AND ($3::text IS NULL OR id = $3) AND used_at IS NULL AND expires_at > now()
    ORDER BY created_at DESC, id DESC LIMIT 1
) AND attempts < $4 AND used_at IS NULL AND expires_at > now()
RETURNING id, email, digest, context, user_id
