-- Statements of `billing.scim`, each under its name. `billing.database.connection.queries` reads them.

-- name: directory_counts
SELECT count(*) AS people,
    count(*) FILTER (WHERE user_id IS NULL AND NOT EXISTS (
        SELECT FROM organization_domains WHERE org_id = $1 AND domain = split_part(email, '@', 2))) AS outside,
    (SELECT count(*) FROM scim_groups WHERE org_id = $1) AS groups
FROM scim_users WHERE org_id = $1

-- name: groups_add
INSERT INTO scim_group_members (group_id, member_id) SELECT $1, unnest($2::text[])

-- name: groups_after
SELECT * FROM scim_groups WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3

-- name: groups_count
SELECT count(*) FROM scim_groups WHERE org_id = $1

-- name: groups_delete
DELETE FROM scim_groups WHERE id = $1

-- name: groups_external
SELECT * FROM scim_groups WHERE org_id = $1 AND external_id = $2 ORDER BY id LIMIT 1000

-- name: groups_get
SELECT * FROM scim_groups WHERE org_id = $1 AND id = $2

-- name: groups_insert
INSERT INTO scim_groups (id, org_id, name, external_id, resource) VALUES ($1, $2, $3, $4, $5) RETURNING *

-- name: groups_lock
SELECT * FROM scim_groups WHERE org_id = $1 AND id = $2 FOR UPDATE

-- name: groups_member_ids
SELECT member_id FROM scim_group_members WHERE group_id = $1 ORDER BY member_id

-- name: groups_members
SELECT group_id AS of, member_id AS id, NULL AS display FROM scim_group_members
WHERE group_id = ANY ($1::text[]) ORDER BY group_id, member_id

-- name: groups_memberships
-- How many members the groups of an organization have together.
SELECT count(*) FROM scim_group_members JOIN scim_groups ON scim_groups.id = group_id WHERE org_id = $1

-- name: groups_named
SELECT * FROM scim_groups WHERE org_id = $1 AND name = $2

-- name: groups_page
SELECT * FROM scim_groups WHERE org_id = $1 ORDER BY id OFFSET $2 LIMIT $3

-- name: groups_references
SELECT group_id AS id, count(*) AS references FROM scim_group_members WHERE group_id = ANY ($1::text[]) GROUP BY group_id

-- name: groups_remove
DELETE FROM scim_group_members WHERE group_id = $1 AND member_id = ANY ($2::text[])

-- name: groups_update
UPDATE scim_groups SET name = $2, external_id = $3, resource = $4, version = version + 1, updated_at = now()
WHERE id = $1

-- name: tokens_count
SELECT count(*) FROM scim_tokens WHERE org_id = $1 AND revoked_at IS NULL

-- name: tokens_get
SELECT * FROM scim_tokens WHERE org_id = $1 AND id = $2

-- name: tokens_insert
INSERT INTO scim_tokens (id, org_id, name, prefix, digest, created_by) VALUES ($1, $2, $3, $4, $5, $6) RETURNING *

-- name: tokens_page
SELECT * FROM scim_tokens WHERE org_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3

-- name: tokens_recognise
WITH used AS (
    UPDATE scim_tokens SET last_used_at = now()
    WHERE digest = $1 AND revoked_at IS NULL AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute'))
SELECT * FROM scim_tokens WHERE digest = $1 AND revoked_at IS NULL

-- name: tokens_revoke
UPDATE scim_tokens SET revoked_at = now() WHERE id = $1

-- name: users_after
SELECT * FROM scim_users WHERE org_id = $1 AND id > $2 ORDER BY id LIMIT $3

-- name: users_count
SELECT count(*) FROM scim_users WHERE org_id = $1

-- name: users_count_of
-- How many of these ids are people of the organization's directory.
SELECT count(*) FROM scim_users WHERE org_id = $1 AND id = ANY ($2::text[])

-- name: users_delete
DELETE FROM scim_users WHERE id = $1

-- name: users_external
SELECT * FROM scim_users WHERE org_id = $1 AND external_id = $2 ORDER BY id LIMIT 1000

-- name: users_get
SELECT * FROM scim_users WHERE org_id = $1 AND id = $2

-- name: users_groups
-- The groups of people, with what each is called.
SELECT member_id AS of, scim_groups.id, resource ->> 'displayName' AS display
FROM scim_group_members JOIN scim_groups ON scim_groups.id = group_id
WHERE member_id = ANY ($1::text[]) ORDER BY member_id, scim_groups.id

-- name: users_insert
INSERT INTO scim_users (id, org_id, user_name, email, external_id, active, resource)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *

-- name: users_link
-- Give the place $1, active or not, to the member of its organization who has proven the address that it is kept for.
UPDATE scim_users SET user_id = users.id
FROM users JOIN memberships ON memberships.user_id = users.id
WHERE scim_users.id = $1 AND scim_users.user_id IS NULL
    AND users.email = scim_users.email AND users.email_verified_at IS NOT NULL
    AND memberships.org_id = scim_users.org_id
    AND NOT EXISTS (SELECT FROM scim_users other WHERE other.org_id = scim_users.org_id AND other.user_id = users.id)
RETURNING scim_users.user_id

-- name: users_lock
SELECT * FROM scim_users WHERE org_id = $1 AND id = $2 FOR UPDATE

-- name: users_named
SELECT * FROM scim_users WHERE org_id = $1 AND user_name = $2

-- name: users_page
SELECT * FROM scim_users WHERE org_id = $1 ORDER BY id OFFSET $2 LIMIT $3

-- name: users_references
SELECT member_id AS id, count(*) AS references FROM scim_group_members WHERE member_id = ANY ($1::text[])
GROUP BY member_id

-- name: users_taken
-- Who has taken these places.
SELECT user_id FROM scim_users WHERE id = ANY ($1::text[]) AND user_id IS NOT NULL

-- name: users_update
UPDATE scim_users SET user_name = $2, email = $3, external_id = $4, active = $5, resource = $6, version = version + 1,
    updated_at = now()
WHERE id = $1 RETURNING *
