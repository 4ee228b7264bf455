-- Note that Redis has corrections up to $2. A locked account is skipped: the relay sends them again, which changes nothing.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
