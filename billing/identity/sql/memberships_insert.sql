INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)
