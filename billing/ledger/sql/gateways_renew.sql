INSERT INTO gateways (id, lease_until) VALUES ($1, now() + $2 * interval '1 second')
ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
