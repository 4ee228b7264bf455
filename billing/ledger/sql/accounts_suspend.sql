WITH found AS (
    SELECT id, status FROM accounts WHERE id = $1 AND $2 <> ALL (suspended_for) FOR NO KEY UPDATE
)
UPDATE accounts a SET
    suspended_for = a.suspended_for || $2::text,
    status = CASE WHEN a.status = 'closed' THEN a.status ELSE 'suspended' END,
    version = a.version + 1
FROM found WHERE a.id = found.id
RETURNING a.status, found.status AS before
