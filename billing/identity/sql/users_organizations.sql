SELECT o.id, o.slug, o.name, o.personal, o.account_id, m.role
FROM memberships m JOIN organizations o ON o.id = m.org_id
WHERE m.user_id = $1 ORDER BY m.created_at, o.id LIMIT $2
