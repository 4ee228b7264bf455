-- Return subjects whose newest version Redis and the gateways may not have: at most $1 accounts after $2, and $1 keys after $3.
(SELECT id AS account_id, NULL AS key_id, version FROM accounts WHERE version > pushed_version AND id > $2 ORDER BY id LIMIT $1)
UNION ALL
(SELECT account_id, id, version FROM api_keys WHERE version > pushed_version AND id > $3 ORDER BY id LIMIT $1)
