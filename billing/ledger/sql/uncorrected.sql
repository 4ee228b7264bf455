-- Return at most $1 accounts after $2 with corrections that Redis may not have.
SELECT id, xseq FROM accounts WHERE xseq > pushed_xseq AND id > $2 ORDER BY id LIMIT $1
