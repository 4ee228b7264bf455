-- Renew $1's lease, for $2 seconds as people read it, and read the others'. $3 is the layout of its state in Redis. The value differs from the last one even
-- where the server's clock stands still. Its own row comes with `judged`.
WITH renewed AS (
    INSERT INTO gateways (id, lease_until, layout) VALUES ($1, now() + $2 * interval '1 second', $3)
    ON CONFLICT (id) DO UPDATE SET ended_at = NULL, layout = excluded.layout, lease_until = CASE
        WHEN gateways.lease_until = excluded.lease_until THEN excluded.lease_until + interval '1 microsecond'
        ELSE excluded.lease_until END
    RETURNING id, lease_until, judged
)
SELECT id, lease_until, false AS ended, judged FROM renewed
UNION ALL
SELECT id, lease_until, ended_at IS NOT NULL, NULL FROM gateways WHERE id <> $1
