UPDATE accounts SET
    name = $2,
    plan = $3,
    status = $4,
    past_due_since = CASE WHEN $4 = 'past_due' THEN coalesce(past_due_since, now()) END,
    credit_limit_nano = $5,
    quotas = $6,
    tz = $7,
    suspended_for = $8,
    version = version + 1
WHERE id = $1
RETURNING *
