SELECT account_id FROM payment_customers WHERE provider = $1 AND customer_id = $2
