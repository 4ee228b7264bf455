UPDATE invitations SET accepted_at = now() WHERE id = $1
