-- What a payment, or the lines of an invoice, have put on the balance of account $3: transfers whose idempotency key, in
-- scope $1, is $2 or begins with it.
SELECT id, amount_nano FROM transfers
WHERE idempotency_scope = $1 AND (idempotency_key = $2 OR starts_with(idempotency_key, $2 || ':')) AND credit_account = $3
ORDER BY id
