INSERT INTO mail_outbox (id, recipient, subject, body) VALUES ($1, $2, $3, $4)
