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
