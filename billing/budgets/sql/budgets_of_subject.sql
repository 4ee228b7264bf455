-- Return the budgets of account $1 that cover the whole account.
SELECT * FROM budgets WHERE account_id = $1 AND subject = 'account' ORDER BY id
