SELECT * FROM auto_recharges WHERE account_id = $1 FOR UPDATE
