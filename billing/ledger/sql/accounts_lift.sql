-- End a suspension, unless the account is not suspended or has another cause to be.
WITH found AS (
    SELECT id, status FROM accounts WHERE id = $1 AND $2 = ANY (suspended_for) FOR NO KEY UPDATE
)
UPDATE accounts a SET
    suspended_for = array_remove(a.suspended_for, $2::text),
    status = CASE
        WHEN a.status <> 'suspended' OR cardinality(array_remove(a.suspended_for, $2::text)) > 0 THEN a.status
        WHEN a.past_due_since IS NOT NULL THEN 'past_due'
        ELSE 'active'
    END,
    version = a.version + 1
FROM found WHERE a.id = found.id
RETURNING a.status, found.status AS before
