DELETE FROM payment_differences WHERE provider = $1 AND kind = $2 AND id = $3
