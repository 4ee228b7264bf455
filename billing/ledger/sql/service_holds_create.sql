-- Keep a hold, unless its account ($2) knows the event ($3) already: no row then. It lasts for $9
-- seconds by the server's clock, which is the one that lets it expire.
WITH claimed AS (
    INSERT INTO service_events (account_id, event_id, digest, request_id, answer) VALUES ($2, $3, $4, $1, $5)
    ON CONFLICT (account_id, event_id) DO NOTHING
    RETURNING request_id
)
INSERT INTO service_holds (id, account_id, event_id, service, partition, payload, expires_at)
SELECT request_id, $2, $3, $6, $7, $8, now() + $9::integer * interval '1 second' FROM claimed
RETURNING id
