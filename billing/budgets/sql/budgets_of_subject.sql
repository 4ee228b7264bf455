-- The budgets of account $1 that are about all of it.
SELECT * FROM budgets WHERE account_id = $1 AND subject = 'account' ORDER BY id
