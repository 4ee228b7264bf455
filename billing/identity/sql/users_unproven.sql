-- Take the address $1, which somebody else has proven, from the user who registered it without proving it.
UPDATE users SET email = NULL WHERE email = $1 AND email_verified_at IS NULL RETURNING id
