-- Accounts after $1 that something is due of, at most $2.
SELECT DISTINCT account_id FROM collected_due WHERE account_id > $1 ORDER BY account_id LIMIT $2
