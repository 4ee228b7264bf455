-- Change a user's address to one that is proven; a user who waited for that alone becomes active ($3).
UPDATE users SET email = $2, email_verified_at = now(),
    status = CASE WHEN $3 AND status = 'pending' THEN 'active' ELSE status END
WHERE id = $1 RETURNING *
