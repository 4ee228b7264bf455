-- Accounts whose lots have less than their balance, and lots that are not their transfer's.
SELECT accounts.id AS account_id, NULL AS lot_id, accounts.balance_nano AS expected_nano, coalesce(kept.left_nano, 0)::numeric AS nano
FROM accounts LEFT JOIN (SELECT account_id, sum(left_nano) AS left_nano FROM lots GROUP BY account_id) AS kept
    ON kept.account_id = accounts.id
WHERE accounts.balance_nano > coalesce(kept.left_nano, 0)
UNION ALL
SELECT lots.account_id, lots.id, transfers.amount_nano, lots.amount_nano
FROM lots LEFT JOIN transfers ON transfers.id = lots.transfer_id AND transfers.credit_account = lots.account_id
WHERE lots.transfer_id IS NOT NULL AND transfers.amount_nano IS DISTINCT FROM lots.amount_nano
ORDER BY account_id
