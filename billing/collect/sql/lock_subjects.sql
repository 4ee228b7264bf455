-- The subjects $1, as they are; nobody else gives them an account meanwhile.
SELECT id, uuid, email, account_id FROM collected_subjects WHERE id = ANY ($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
