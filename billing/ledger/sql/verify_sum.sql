-- The sum of all balances, those of system accounts included, where it is not zero.
SELECT total.nano AS sum_nano
FROM (
    SELECT (SELECT coalesce(sum(balance_nano), 0) FROM accounts)
        + (SELECT coalesce(sum(amount_nano), 0) FROM transfers WHERE credit_account LIKE 'sys:%')
        - (SELECT coalesce(sum(amount_nano), 0) FROM transfers WHERE debit_account LIKE 'sys:%') AS nano
) AS total
WHERE total.nano <> 0
