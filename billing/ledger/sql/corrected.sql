-- Redis was told of corrections up to $2. An account that is locked is left to the relay: only a note would be missing.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
