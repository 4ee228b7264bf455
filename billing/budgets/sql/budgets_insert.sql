INSERT INTO budgets (id, account_id, subject, about, period, amount_nano, thresholds, notify)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *
