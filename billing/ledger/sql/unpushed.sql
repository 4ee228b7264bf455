-- Return subjects whose newest version Redis and the gateways may not have.
(SELECT id AS account_id, NULL AS key_id, version FROM accounts WHERE version > pushed_version LIMIT $1)
UNION ALL
(SELECT account_id, id, version FROM api_keys WHERE version > pushed_version LIMIT $1)
