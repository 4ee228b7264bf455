-- What each kind of transfer but usage has changed the balance of account $1 by, from $2 on and before $3: of these an account
-- has few, and an index for each side.
SELECT kind, sum(amount_nano) AS amount_nano
FROM (
    SELECT kind, -amount_nano AS amount_nano FROM transfers
    WHERE debit_account = $1 AND kind <> 'usage' AND created_at >= $2 AND created_at < $3
    UNION ALL
    SELECT kind, amount_nano FROM transfers
    WHERE credit_account = $1 AND kind <> 'usage' AND created_at >= $2 AND created_at < $3
) AS both_sides
GROUP BY kind
