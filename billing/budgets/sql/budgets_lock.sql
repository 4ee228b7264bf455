-- Return a budget, and keep others from changing it until the transaction ends: what a change leaves as it is must be as it is.
SELECT * FROM budgets WHERE id = $1 AND account_id = $2 FOR UPDATE
