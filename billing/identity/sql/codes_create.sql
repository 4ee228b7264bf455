-- A code for an address, where it and who asks ($8) have asked for few in the last hour. $1 is an id, $2 the address,
-- $3 the purpose, $4 whose, $5 the digest, $6 what it is about, $7 seconds until it expires. With $11 the address's own
-- are those that this network has asked for.
INSERT INTO one_time_codes (id, email, purpose, user_id, digest, context, expires_at, network)
SELECT $1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second', $8
WHERE (
    SELECT count(*) FROM one_time_codes
    WHERE email = $2 AND created_at > now() - interval '1 hour' AND ($11 IS NOT TRUE OR network = $8)
) < $9 AND ($8::text IS NULL OR (
    SELECT count(*) FROM one_time_codes WHERE network = $8 AND created_at > now() - interval '1 hour'
) < $10)
RETURNING id
