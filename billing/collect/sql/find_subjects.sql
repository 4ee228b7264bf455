-- Those whose uuid is $1, or whose e-mail address is: that have no account, or with $3 any but the account $4.
SELECT id, account_id FROM collected_subjects
WHERE (account_id IS NULL OR ($3::boolean AND account_id <> $4::text))
    AND (uuid = $1 OR (email <> '' AND lower(email) = lower($1)))
ORDER BY id LIMIT $2
