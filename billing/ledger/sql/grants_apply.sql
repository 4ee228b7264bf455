-- Change the balance and write its correction for Redis and its transfer, in one statement so that all three exist or none.
WITH moved AS (
    UPDATE accounts SET balance_nano = balance_nano + $2, xseq = xseq + 1 WHERE id = $1
    RETURNING xseq
), told AS (
    INSERT INTO corrections (account_id, xseq, delta_nano) SELECT $1, xseq, $2 FROM moved
)
INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, idempotency_key,
    request_digest, note, metadata)
SELECT $3, $4, $5, abs($2), $6, $7, $8, $9, $10, $11 FROM moved
