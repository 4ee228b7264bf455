UPDATE payment_customers SET method = $3 WHERE provider = $1 AND customer_id = $2
