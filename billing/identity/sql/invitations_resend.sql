UPDATE invitations SET digest = $2, expires_at = now() + $3 * interval '1 second', sends = sends + 1
WHERE id = $1
RETURNING *, false AS expired
