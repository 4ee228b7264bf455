SELECT org_id FROM invitations WHERE digest = $1
