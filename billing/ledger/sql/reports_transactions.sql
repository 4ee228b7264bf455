-- Each side of the ledger by its own index; a usage transfer never raises a customer's balance. The balance after each
-- is counted down from $4, what it was after the first one here; without that, from the account's own in the same
-- snapshot.
SELECT *, coalesce($4, (SELECT balance_nano FROM accounts WHERE id = $1)) - coalesce(
    sum(amount_nano) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS balance_nano
FROM (
    (SELECT id, kind, -amount_nano AS amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE debit_account = $1 AND id < $2 ORDER BY id DESC LIMIT $3)
    UNION ALL
    (SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id < $2 ORDER BY id DESC LIMIT $3)
) AS both_sides
ORDER BY id DESC LIMIT $3
