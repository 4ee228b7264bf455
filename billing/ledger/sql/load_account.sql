-- An account as admission needs it, locked, and marked as loaded for epoch $2 of partition $3. No row when the epoch has
-- moved or the account does not exist. A row that another transaction has locked is waited for as long as $4 says, before
-- the partition is looked at: an epoch must be able to move meanwhile.
WITH mine AS MATERIALIZED (
    SELECT id FROM accounts
    WHERE id = $1 AND (SELECT set_config('lock_timeout', $4::text, true)) IS NOT NULL FOR NO KEY UPDATE
), current AS MATERIALIZED (
    SELECT mine.id FROM mine
    WHERE (SELECT epoch FROM partitions WHERE p = $3 AND mine.id IS NOT NULL FOR SHARE) = $2
)
UPDATE accounts SET hyd_epoch = greatest(hyd_epoch, $2) FROM current WHERE accounts.id = current.id
RETURNING balance_nano, xseq, version, plan, quotas
