-- The balance and its correction for Redis, by $2 in all, and the transfers $3, a JSON list: one statement, so that none is
-- without the others. Transfers that cancel each other out move no balance.
WITH moved AS (
    UPDATE accounts SET balance_nano = balance_nano + $2, xseq = xseq + 1 WHERE id = $1 AND $2 <> 0
    RETURNING xseq
), told AS (
    INSERT INTO corrections (account_id, xseq, delta_nano) SELECT $1, xseq, $2 FROM moved
)
INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, idempotency_key,
    request_id, note, metadata)
SELECT id, debit_account, credit_account, amount_nano, kind, 'reprice', idempotency_key, request_id, note, metadata
FROM jsonb_to_recordset($3::jsonb) AS t (id text, debit_account text, credit_account text, amount_nano bigint, kind text,
    idempotency_key text, request_id text, note text, metadata jsonb)
