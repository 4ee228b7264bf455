-- Accounts whose balance is not the sum of their transfers, and names in transfers that are no account. System accounts
-- have no row: they are what their transfers sum to.
WITH moved AS (
    SELECT account_id, sum(amount_nano) AS amount_nano
    FROM (
        SELECT credit_account AS account_id, amount_nano FROM transfers
        UNION ALL
        SELECT debit_account, -amount_nano FROM transfers
    ) AS sides
    GROUP BY account_id
)
SELECT coalesce(accounts.id, moved.account_id) AS account_id, accounts.balance_nano,
    coalesce(moved.amount_nano, 0)::numeric AS transfers_nano
FROM accounts FULL JOIN moved ON moved.account_id = accounts.id
WHERE accounts.balance_nano IS DISTINCT FROM coalesce(moved.amount_nano, 0)
    AND (accounts.id IS NOT NULL OR moved.account_id NOT LIKE 'sys:%')
ORDER BY account_id
