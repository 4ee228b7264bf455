SELECT * FROM organizations WHERE account_id = $1
