-- What people, keys, accounts and organizations are called whose ids are among $1; with $2 only what belongs to that account.
SELECT id, email AS name FROM users
WHERE id = ANY ($1::text[]) AND ($2::text IS NULL OR EXISTS (
    SELECT FROM memberships AS m JOIN organizations AS o ON o.id = m.org_id
    WHERE m.user_id = users.id AND o.account_id = $2))
UNION ALL
SELECT id, name FROM api_keys WHERE id = ANY ($1) AND ($2 IS NULL OR account_id = $2)
UNION ALL
SELECT id, name FROM accounts WHERE id = ANY ($1) AND ($2 IS NULL OR id = $2)
UNION ALL
SELECT id, name FROM organizations WHERE id = ANY ($1) AND ($2 IS NULL OR account_id = $2)
