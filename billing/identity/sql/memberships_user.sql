SELECT email, email_verified_at IS NOT NULL AS verified, status FROM users WHERE id = $1 FOR NO KEY UPDATE
