-- Those without an account whose uuid is $1, or whose e-mail address is.
SELECT id FROM collected_subjects WHERE account_id IS NULL AND (uuid = $1 OR (email <> '' AND lower(email) = lower($1)))
ORDER BY id LIMIT $2
