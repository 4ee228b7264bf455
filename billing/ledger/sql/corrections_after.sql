SELECT c.*, k.quotas AS key_quotas FROM corrections c LEFT JOIN api_keys k ON k.id = c.key_id
WHERE c.account_id = $1 AND c.xseq > $2 ORDER BY c.xseq LIMIT $3
