-- Accounts that Redis was loaded with in epoch $2, a page of at most $3 after $1, of those whose partition it is.
SELECT id FROM accounts WHERE hyd_epoch = $2 AND id > $1 ORDER BY id LIMIT $3
