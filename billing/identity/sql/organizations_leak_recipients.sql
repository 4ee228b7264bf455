-- Who is told of a key that leaked: its user, or else the owners of the organization that has its account.
SELECT email FROM users WHERE id = $2
UNION
SELECT users.email
FROM organizations
JOIN memberships ON memberships.org_id = organizations.id AND memberships.role = 'owner'
JOIN users ON users.id = memberships.user_id
WHERE organizations.account_id = $1 AND NOT EXISTS (SELECT FROM users WHERE id = $2)
LIMIT $3
