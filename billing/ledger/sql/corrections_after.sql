SELECT c.*, k.quotas AS key_quotas, m.user_id, m.quotas AS user_quotas
FROM corrections c LEFT JOIN api_keys k ON k.id = c.key_id
    LEFT JOIN member_limits m ON m.account_id = c.account_id AND m.user_id = k.user_id
WHERE c.account_id = $1 AND c.xseq > $2 ORDER BY c.xseq LIMIT $3
