SELECT * FROM payments_parked WHERE provider = $1 AND kind = $2 AND object_id = $3 FOR NO KEY UPDATE
