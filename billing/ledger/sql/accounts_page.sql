-- Read a page of accounts. $3 limits it to names that contain this text, or to this id; $4 to a status.
SELECT * FROM accounts
WHERE id < $1 AND ($3::text IS NULL OR id = $3 OR position(lower($3) IN lower(name)) > 0) AND ($4::text IS NULL OR status = $4)
ORDER BY id DESC LIMIT $2
