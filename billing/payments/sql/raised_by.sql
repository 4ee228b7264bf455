-- What a payment, or the lines of an invoice, have put on a balance: transfers whose idempotency key, in scope $1, is $2 or
-- begins with it.
SELECT id, amount_nano FROM transfers
WHERE idempotency_scope = $1 AND (idempotency_key = $2 OR starts_with(idempotency_key, $2 || ':')) ORDER BY id
