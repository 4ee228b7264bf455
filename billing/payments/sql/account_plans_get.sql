SELECT plan, standing, ends_at, next_plan FROM account_plans WHERE account_id = $1
