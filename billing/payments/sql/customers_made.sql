WITH made AS (
    UPDATE payment_customers SET customer_id = $4
    WHERE account_id = $1 AND provider = $2 AND generation = $3 AND customer_id IS NULL
    RETURNING account_id
)
UPDATE accounts SET payment_customer_id = $4 FROM made WHERE accounts.id = made.account_id
