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
