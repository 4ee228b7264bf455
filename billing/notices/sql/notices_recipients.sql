-- Who is told by mail: owners and admins of the organization that has the account.
SELECT users.email FROM organizations
JOIN memberships ON memberships.org_id = organizations.id AND memberships.role IN ('owner', 'admin')
JOIN users ON users.id = memberships.user_id AND users.status = 'active' AND users.email_verified_at IS NOT NULL
WHERE organizations.account_id = $1 ORDER BY memberships.created_at LIMIT $2
