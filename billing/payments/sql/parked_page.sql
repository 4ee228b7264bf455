SELECT * FROM payments_parked WHERE id < $1 AND state = $2 ORDER BY id DESC LIMIT $3
