-- Return the account that an operator has credited payment $2 to.
SELECT t.credit_account FROM payments_parked p JOIN transfers t ON t.id = p.transfer_id
WHERE p.provider = $1 AND p.kind = 'payment' AND p.object_id = $2 AND p.state = 'credited'
