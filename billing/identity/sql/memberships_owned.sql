-- How many organizations a person owns, but for those whose accounts are closed.
SELECT count(*) FROM memberships
JOIN organizations ON organizations.id = memberships.org_id JOIN accounts ON accounts.id = organizations.account_id
WHERE memberships.user_id = $1 AND memberships.role = 'owner' AND accounts.status <> 'closed'
