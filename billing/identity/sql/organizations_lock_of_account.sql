SELECT * FROM organizations WHERE account_id = $1 FOR NO KEY UPDATE
