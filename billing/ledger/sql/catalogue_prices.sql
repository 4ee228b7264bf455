INSERT INTO prices (id, provider, model, effective_from, said)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::date[], $5::text[])
ON CONFLICT (id) DO NOTHING
