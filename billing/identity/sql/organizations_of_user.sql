SELECT organizations.*, memberships.role
FROM memberships JOIN organizations ON organizations.id = memberships.org_id
WHERE memberships.user_id = $1 AND organizations.id < $2
ORDER BY organizations.id DESC LIMIT $3
