-- Keys of accounts $1 that have windows, and their quotas as text.
SELECT account_id, id, quotas::text AS quotas FROM api_keys WHERE account_id = ANY ($1::text[]) AND quotas <> '[]'
