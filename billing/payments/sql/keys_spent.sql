-- Begin the generation after $2 of a key, once for all calls that failed in this one.
INSERT INTO spent_payment_keys AS spent (key, generation) VALUES ($1, $2 + 1)
ON CONFLICT (key) DO UPDATE SET generation = excluded.generation, spent_at = now() WHERE spent.generation = $2
