SELECT a.id AS account_id, m.quotas FROM accounts a LEFT JOIN member_limits m ON m.account_id = a.id AND m.user_id = $2
WHERE a.id = $1
