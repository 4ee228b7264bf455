INSERT INTO account_plans (account_id, plan, standing, ends_at, next_plan) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (account_id) DO UPDATE SET plan = excluded.plan, standing = excluded.standing, ends_at = excluded.ends_at,
    next_plan = excluded.next_plan, updated_at = now()
