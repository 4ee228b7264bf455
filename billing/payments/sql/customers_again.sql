-- The next generation of an account's customer, begun once by all calls that failed in this one ($3).
UPDATE payment_customers SET generation = generation + 1
WHERE account_id = $1 AND provider = $2 AND generation = $3 AND customer_id IS NULL
