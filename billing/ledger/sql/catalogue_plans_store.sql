INSERT INTO plans (id, digest) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest
