-- Statements of `billing.keys`, each under its name. `billing.database.connection.queries` reads them.

-- name: accounts_principal
SELECT
    id AS account_id,
    name AS account_name,
    version AS account_version,
    status,
    past_due_since,
    credit_limit_nano,
    quotas AS account_quotas,
    plan,
    (SELECT max(revision) FROM plan_revisions) AS plans_revision
FROM accounts WHERE id = $1

-- name: keys_room
-- How many keys that work a user has in an account, and how many their group in the organization allows them at most.
SELECT count(*) AS made, (
    SELECT memberships.max_keys FROM organizations JOIN memberships ON memberships.org_id = organizations.id
    WHERE organizations.account_id = $1 AND memberships.user_id = $2) AS allowed
FROM api_keys
WHERE account_id = $1 AND user_id IS NOT DISTINCT FROM $2
    AND (revoked_at IS NULL OR revoked_at > now()) AND (expires_at IS NULL OR expires_at > now())

-- name: keys_create
-- The columns are those of the fields of billing.shapes.keys.KeyRules.
INSERT INTO api_keys (id, account_id, user_id, name, prefix, secret_sha256, {columns})
SELECT $1, accounts.id, $3, $4, $5, $6, {values}
FROM accounts WHERE accounts.id = $2
RETURNING *

-- name: keys_get
SELECT * FROM api_keys WHERE id = $1

-- name: keys_leaked
-- Revoke the key of this secret; of a key that was rotated, the former secret alone.
UPDATE api_keys SET
    revoked_at = CASE WHEN secret_sha256 = $2 THEN now() ELSE revoked_at END,
    previous_sha256 = NULL,
    previous_until = NULL,
    version = version + 1
WHERE id = $1
RETURNING *

-- name: keys_lock
SELECT * FROM api_keys WHERE id = $1 FOR NO KEY UPDATE

-- name: keys_lock_secret
SELECT * FROM api_keys
WHERE (secret_sha256 = $1 OR (previous_sha256 = $1 AND previous_until > now()))
    AND (revoked_at IS NULL OR revoked_at > now())
FOR NO KEY UPDATE

-- name: keys_names
SELECT id, name FROM api_keys WHERE account_id = $1 AND id = ANY($2::text[])

-- name: keys_of_user
SELECT * FROM api_keys
WHERE account_id = $1 AND user_id = $2 AND (revoked_at IS NULL OR revoked_at > now())
ORDER BY id FOR NO KEY UPDATE

-- name: keys_page
SELECT * FROM api_keys
WHERE ($1::text IS NULL OR account_id = $1) AND ($4::text IS NULL OR user_id = $4) AND id < $2
ORDER BY id DESC LIMIT $3

-- name: keys_principal
-- Find a key by the digest of its secret, or of its former secret while that is still valid.
SELECT
    api_keys.*,
    CASE WHEN api_keys.previous_sha256 = $1 THEN api_keys.previous_until END AS secret_until,
    accounts.name AS account_name,
    accounts.version AS account_version,
    accounts.status,
    accounts.past_due_since,
    accounts.credit_limit_nano,
    accounts.quotas AS account_quotas,
    accounts.plan,
    member_limits.quotas AS user_quotas,
    coalesce(api_keys.revoked_at <= now(), false) AS revoked,
    (SELECT max(revision) FROM plan_revisions) AS plans_revision
FROM api_keys JOIN accounts ON accounts.id = api_keys.account_id
    LEFT JOIN member_limits ON member_limits.account_id = accounts.id AND member_limits.user_id = api_keys.user_id
WHERE api_keys.secret_sha256 = $1
    OR api_keys.id = $2
    OR (api_keys.previous_sha256 = $1 AND api_keys.previous_until > now())

-- name: keys_revoke
UPDATE api_keys SET revoked_at = now(), version = version + 1
WHERE id = $1 AND (revoked_at IS NULL OR revoked_at > now())
RETURNING *

-- name: keys_rotate
UPDATE api_keys SET
    previous_sha256 = CASE WHEN $4 > 0 THEN secret_sha256 END,
    previous_until = CASE WHEN $4 > 0 THEN now() + $4 * interval '1 second' END,
    secret_sha256 = $2,
    prefix = $3,
    version = version + 1
WHERE id = $1
RETURNING *

-- name: keys_touch
WITH used AS (
    SELECT * FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)
), locked AS (
    SELECT api_keys.id FROM api_keys JOIN used USING (id) ORDER BY api_keys.id FOR NO KEY UPDATE OF api_keys
)
UPDATE api_keys SET last_used_at = greatest(api_keys.last_used_at, used.at)
FROM used JOIN locked USING (id)
WHERE api_keys.id = used.id

-- name: keys_update
-- The columns are those of the fields of billing.shapes.keys.KeyRules.
UPDATE api_keys SET name = $2, ({columns}) = ROW ({values}), version = version + 1
WHERE id = $1
RETURNING *
