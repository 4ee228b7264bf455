-- What an organization has: members, open invitations, those that it has sent in 24 hours, and whether this address is
-- a member's already, or has an open invitation.
SELECT
    (SELECT count(*) FROM memberships WHERE org_id = $1) AS members,
    count(*) FILTER (WHERE is_open) AS open,
    count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS today,
    coalesce(bool_or(is_open AND email = $2), false) AS invited,
    EXISTS (
        SELECT FROM memberships JOIN users ON users.id = memberships.user_id
        WHERE memberships.org_id = $1 AND users.email = $2
    ) AS belongs,
    (SELECT plan FROM accounts WHERE id = $3) AS plan
FROM (
    SELECT *, accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now() AS is_open
    FROM invitations WHERE org_id = $1
) AS theirs
