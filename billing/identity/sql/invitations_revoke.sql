UPDATE invitations SET revoked_at = now() WHERE id = $1
