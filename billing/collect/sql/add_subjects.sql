-- $1 uuids, $2 e-mail addresses.
INSERT INTO collected_subjects (uuid, email)
SELECT DISTINCT ON (uuid) uuid, email FROM unnest($1::text[], $2::text[]) AS g (uuid, email) ORDER BY uuid, email
ON CONFLICT (uuid) DO NOTHING
