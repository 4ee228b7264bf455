-- Users of accounts $1 that have quotas, these as text, and the keys that count in them.
SELECT m.account_id, m.user_id, m.quotas::text AS quotas, m.since,
    ARRAY(SELECT k.id FROM api_keys k WHERE k.account_id = m.account_id AND k.user_id = m.user_id) AS key_ids
FROM member_limits m WHERE m.account_id = ANY ($1::text[])
