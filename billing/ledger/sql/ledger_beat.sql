-- Raise the ledger's beat by one. Return the ledger's identity, the beat, its clock in Unix milliseconds, and every partition's epoch.
UPDATE installation SET beat = beat + 1
RETURNING ledger_identity() AS identity, beat, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
    ARRAY(SELECT p FROM partitions ORDER BY p) AS numbers, ARRAY(SELECT epoch FROM partitions ORDER BY p) AS epochs
