-- Note a sign-in; a password under other parameters ($3) replaces the same one ($2), unless that was changed meanwhile.
UPDATE users SET last_sign_in_at = now(),
    password_hash = CASE WHEN $3::text IS NOT NULL AND password_hash = $2 THEN $3 ELSE password_hash END
WHERE id = $1
