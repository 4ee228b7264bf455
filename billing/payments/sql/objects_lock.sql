SELECT applied, state FROM payment_objects WHERE provider = $1 AND kind = $2 AND id = $3 FOR NO KEY UPDATE
