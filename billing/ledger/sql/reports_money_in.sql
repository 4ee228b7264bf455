-- What customers paid, less what was given back to them, in nano-USD, from $2 on and before $3. $1 is the account that their
-- money comes from; ids begin with the time when they were made, so that $4, the id of a day before $2, bounds what is read.
SELECT coalesce(sum(amount_nano), 0)::text AS amount_nano
FROM (
    SELECT amount_nano FROM transfers
    WHERE debit_account = $1 AND kind <> 'usage' AND id >= $4 AND created_at >= $2 AND created_at < $3
    UNION ALL
    SELECT -amount_nano FROM transfers
    WHERE credit_account = $1 AND kind <> 'usage' AND id >= $4 AND created_at >= $2 AND created_at < $3
) AS both_sides
