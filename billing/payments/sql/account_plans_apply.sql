-- Give an account its plan ($2; null: as it is), and say whether it is past due, since $3. One that is suspended or closed
-- stays so; what is past due by hand, with $4 unset, stays so, too.
UPDATE accounts SET
    plan = coalesce($2, plan),
    past_due_since = CASE WHEN $4 THEN $3 ELSE past_due_since END,
    status = CASE
        WHEN NOT $4 OR status NOT IN ('active', 'past_due') THEN status
        WHEN $3::timestamptz IS NULL THEN 'active'
        ELSE 'past_due'
    END,
    version = version + 1
WHERE id = $1
RETURNING plan, status
