-- Read under the lock of the organization's row: of two who accept at the same time, the second finds it used.
SELECT invitations.id, invitations.role
FROM invitations JOIN users ON users.email = invitations.email
WHERE invitations.digest = $1 AND users.id = $2 AND users.email_verified_at IS NOT NULL AND users.status <> 'disabled'
    AND invitations.accepted_at IS NULL AND invitations.revoked_at IS NULL AND invitations.expires_at > now()
