-- Each side of the ledger by its own index; a usage transfer never raises a customer's balance.
SELECT * FROM (
    (SELECT id, kind, -amount_nano AS amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE debit_account = $1 AND id < $2 ORDER BY id DESC LIMIT $3)
    UNION ALL
    (SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id < $2 ORDER BY id DESC LIMIT $3)
) AS both_sides
ORDER BY id DESC LIMIT $3
