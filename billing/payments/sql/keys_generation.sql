-- Return the generation of a key, which is asked for again: it is kept from now on. No row: the first one.
UPDATE spent_payment_keys SET spent_at = now() WHERE key = $1 RETURNING generation
