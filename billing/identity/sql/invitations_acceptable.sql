-- Read an invitation under the lock of the organization's row, so that the second of two acceptances finds it used.
SELECT invitations.id, invitations.role
FROM invitations JOIN users ON users.email = invitations.email
WHERE invitations.digest = $1 AND users.id = $2 AND users.email_verified_at IS NOT NULL AND users.status <> 'disabled'
    AND invitations.accepted_at IS NULL AND invitations.revoked_at IS NULL AND invitations.expires_at > now()
