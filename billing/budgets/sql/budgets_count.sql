SELECT count(*) FROM budgets WHERE account_id = $1
