SELECT count(*) FROM memberships WHERE org_id = $1 AND role = 'owner'
