DELETE FROM member_limits WHERE account_id = $1 AND user_id = $2
