SELECT id, said FROM prices WHERE id = ANY ($1::text[])
