-- With $3 accounts that have this text in their names, or this id; with $4 those of this status.
SELECT * FROM accounts
WHERE id < $1 AND ($3::text IS NULL OR id = $3 OR position(lower($3) IN lower(name)) > 0) AND ($4::text IS NULL OR status = $4)
ORDER BY id DESC LIMIT $2
