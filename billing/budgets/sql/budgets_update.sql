-- Change a budget and forget which thresholds it was told of: they belong to the former rules.
UPDATE budgets SET subject = $3, about = $4, period = $5, amount_nano = $6, thresholds = $7, notify = $8, told_period = '',
    told = 0, looked_at = '-infinity'
WHERE id = $1 AND account_id = $2 RETURNING *
