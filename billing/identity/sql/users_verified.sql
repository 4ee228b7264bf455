-- Note that a user's address is proven. A user who waited for that alone becomes active ($3); the password becomes that of the person who proved it.
UPDATE users SET email_verified_at = coalesce(email_verified_at, now()), password_hash = $2, name = coalesce($4, name),
    status = CASE WHEN $3 AND status = 'pending' THEN 'active' ELSE status END
WHERE id = $1 RETURNING *
