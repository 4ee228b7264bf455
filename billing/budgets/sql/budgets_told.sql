-- Budget $1 was told of in the period $2 up to the threshold $3, if it was not, and says now what it said: $4 is its amount.
UPDATE budgets SET told_period = $2, told = $3
WHERE id = $1 AND amount_nano = $4 AND (told_period <> $2 OR told < $3) AND $3 = ANY(thresholds)
RETURNING id
