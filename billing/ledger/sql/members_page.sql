SELECT user_id, quotas FROM member_limits WHERE account_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3
