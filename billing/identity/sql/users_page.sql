SELECT * FROM users WHERE id < $1 AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR email = $4)
ORDER BY id DESC LIMIT $2
