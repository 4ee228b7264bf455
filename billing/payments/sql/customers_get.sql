SELECT generation, customer_id, method FROM payment_customers WHERE account_id = $1 AND provider = $2
