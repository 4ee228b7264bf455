SELECT status FROM accounts WHERE id = $1
