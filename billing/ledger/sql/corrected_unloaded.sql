-- Redis need not be told of corrections up to $2 of an account that it has not got: loading it reads the ledger. That is
-- so while no load of the partition's current epoch has begun: one that has may have read the ledger before them. An
-- account that is locked is left to the relay: only a note would be missing.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
    AND hyd_epoch < (SELECT epoch FROM partitions WHERE p = $3)
