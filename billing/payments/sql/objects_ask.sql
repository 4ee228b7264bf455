INSERT INTO payment_objects (provider, kind, id, asked) VALUES ($1, $2, $3, 1)
ON CONFLICT (provider, kind, id) DO UPDATE SET asked = payment_objects.asked + 1
RETURNING asked
