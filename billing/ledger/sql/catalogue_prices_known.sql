SELECT id FROM prices WHERE id = ANY($1::text[])
