INSERT INTO debits_set_aside (request_id, debit, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
