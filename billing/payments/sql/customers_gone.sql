UPDATE payment_customers SET customer_id = NULL, method = NULL, generation = generation + 1
WHERE provider = $1 AND customer_id = $2
