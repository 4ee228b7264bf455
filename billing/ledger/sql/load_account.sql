-- An account as admission needs it, locked, and marked as loaded for epoch $2 of partition $3. No row when the epoch has
-- moved or the account does not exist.
UPDATE accounts SET hyd_epoch = greatest(hyd_epoch, $2)
WHERE id = $1 AND (SELECT epoch FROM partitions WHERE p = $3 FOR SHARE) = $2
RETURNING balance_nano, xseq, version, plan, quotas
