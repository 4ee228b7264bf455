DELETE FROM budgets WHERE id = $1 AND account_id = $2 RETURNING *
