-- Accounts loaded for epoch $1 that have corrections which Redis may not have been told of, at most $2.
SELECT id FROM accounts WHERE xseq > pushed_xseq AND hyd_epoch = $1 ORDER BY id LIMIT $2
