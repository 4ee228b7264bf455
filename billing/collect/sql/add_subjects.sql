-- $1 uuids, $2 e-mail addresses: of a uuid that has several, the first one.
INSERT INTO collected_subjects (uuid, email)
SELECT DISTINCT ON (uuid) uuid, email FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS g (uuid, email, place)
ORDER BY uuid, place
ON CONFLICT (uuid) DO NOTHING
