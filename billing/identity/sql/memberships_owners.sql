-- Count the owners of an organization other than $2 who can sign in; disabled users do not count.
SELECT count(*) FROM memberships JOIN users ON users.id = memberships.user_id
WHERE memberships.org_id = $1 AND memberships.role = 'owner' AND memberships.user_id <> $2 AND users.status <> 'disabled'
