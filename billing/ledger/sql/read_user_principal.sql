-- The quotas of user $2 in account $1, at the account's version, and the keys that count in them.
SELECT a.version, coalesce(m.quotas, '[]') AS quotas, coalesce(m.since, 0) AS since, clock_timestamp() AS now,
    ARRAY(SELECT k.id FROM api_keys k WHERE k.account_id = a.id AND k.user_id = $2) AS key_ids
FROM accounts a LEFT JOIN member_limits m ON m.account_id = a.id AND m.user_id = $2
WHERE a.id = $1
