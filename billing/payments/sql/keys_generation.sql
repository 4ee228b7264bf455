SELECT generation FROM spent_payment_keys WHERE key = $1
