INSERT INTO user_identities (issuer, subject, user_id, email) VALUES ($1, $2, $3, $4)
