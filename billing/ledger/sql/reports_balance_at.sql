-- The balance of account $1 right after transfer $2: that of now less what later ones have changed it by. Of each side of the
-- ledger at most $3 are looked at; `later` is how many there were.
WITH newer AS (
    (SELECT -amount_nano AS amount_nano FROM transfers WHERE debit_account = $1 AND id > $2 ORDER BY id LIMIT $3)
    UNION ALL
    (SELECT amount_nano FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id > $2 ORDER BY id LIMIT $3)
)
SELECT (balance_nano - (SELECT coalesce(sum(amount_nano), 0) FROM newer))::bigint AS balance_nano,
       (SELECT count(*) FROM newer) AS later
FROM accounts WHERE accounts.id = $1
