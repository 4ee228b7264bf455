-- Budget $1 was told of in the period $2 up to the threshold $3, if it was not, nor of a later period (periods are named by
-- their first days), and nobody has changed or taken it since it was taken at $4.
UPDATE budgets SET told_period = $2, told = $3
WHERE id = $1 AND looked_at = $4 AND (told_period < $2 OR told_period = $2 AND told < $3)
RETURNING id
