-- What debits have taken since the lots of account $1 last changed, drawn from them. The caller has locked the account, and
-- nothing else changes its lots. A balance above all lots was raised by a release that kept none: what is above is a lot, $2.
WITH found AS (
    INSERT INTO lots (id, account_id, kind, amount_nano, left_nano, priority, promotional)
    SELECT $2, $1, 'opening', above, above, 50, false
    FROM (
        SELECT balance_nano - (SELECT coalesce(sum(left_nano), 0) FROM lots WHERE account_id = $1 AND left_nano > 0) AS above
        FROM accounts WHERE id = $1 AND balance_nano > 0
    ) AS balance
    WHERE above > 0
)
UPDATE lots SET left_nano = lots_now.left_now
FROM lots_now WHERE lots_now.account_id = $1 AND lots.id = lots_now.id AND lots.left_nano <> lots_now.left_now
