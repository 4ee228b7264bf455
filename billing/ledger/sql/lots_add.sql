-- A lot of account $2, whose balance has been raised by it already: debt is paid first, so that no more is left than there is.
INSERT INTO lots (id, account_id, kind, transfer_id, amount_nano, left_nano, priority, promotional, expires_at)
SELECT $1, $2, $3, $4, $5::bigint, least($5::bigint, greatest(balance_nano, 0)), $6, $7, $8
FROM accounts WHERE id = $2
