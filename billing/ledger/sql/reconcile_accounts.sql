-- Accounts that Redis was loaded with in one of the epochs $2, a page of at most $3 after $1. `subjects` are the account,
-- and its keys and users that have windows; `pending` says that Redis may not know of all its corrections.
SELECT a.id, a.hyd_epoch, a.xseq > a.pushed_xseq AS pending,
    1 + (SELECT count(*) FROM api_keys k WHERE k.account_id = a.id AND k.quotas <> '[]')
        + (SELECT count(*) FROM member_limits m WHERE m.account_id = a.id) AS subjects
FROM accounts a WHERE a.hyd_epoch = ANY ($2::bigint[]) AND a.id > $1 ORDER BY a.id LIMIT $3
