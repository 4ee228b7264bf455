-- Take the address $1, which has been proven by somebody else, from who has registered it without proving it.
UPDATE users SET email = NULL WHERE email = $1 AND email_verified_at IS NULL RETURNING id
