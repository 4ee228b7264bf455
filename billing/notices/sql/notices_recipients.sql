-- Who is told by mail: owners and admins of the organization that has the account $1; of a budget ($3) the members whom it names,
-- where it names some.
SELECT users.email FROM organizations
JOIN memberships ON memberships.org_id = organizations.id
JOIN users ON users.id = memberships.user_id AND users.status = 'active' AND users.email_verified_at IS NOT NULL
LEFT JOIN budgets ON budgets.id = $3 AND cardinality(budgets.notify) > 0
WHERE organizations.account_id = $1
    AND CASE WHEN budgets.id IS NULL THEN memberships.role IN ('owner', 'admin') ELSE users.email = ANY(budgets.notify) END
ORDER BY memberships.created_at LIMIT $2
