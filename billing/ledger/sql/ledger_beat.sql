-- Count on. What this ledger is, how far it has counted, and its clock in Unix milliseconds.
UPDATE installation SET beat = beat + 1
RETURNING ledger_identity() AS identity, beat, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
