-- Those whose uuid is $1, or whose e-mail address is; first those that are not of account $3, at most $2.
SELECT id, account_id FROM collected_subjects
WHERE uuid = $1 OR (email <> '' AND lower(email) = lower($1))
ORDER BY account_id IS NOT DISTINCT FROM $3::text, id LIMIT $2
