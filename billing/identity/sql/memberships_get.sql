SELECT memberships.user_id, memberships.role, memberships.created_at, users.email, users.name
FROM memberships JOIN users ON users.id = memberships.user_id
WHERE memberships.org_id = $1 AND memberships.user_id = $2
