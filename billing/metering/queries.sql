-- Statements of `billing.metering`, each under its name. `billing.database.connection.queries` reads them.

-- name: claimed_events
-- Events of services that are known, by account $1 and id $2, side by side.
SELECT e.account_id, e.event_id, e.digest, e.answer, e.request_id
FROM unnest($1::text[], $2::text[]) AS asked (account_id, event_id) JOIN service_events AS e USING (account_id, event_id)

-- name: features_account
-- The account's plan, and what its subscriptions say of the period that it is in.
SELECT a.plan, a.created_at, s.period_start, s.period_end, s.created_at AS anchor
FROM accounts a LEFT JOIN LATERAL (
    SELECT period_start, period_end, created_at FROM subscriptions
    WHERE account_id = a.id AND plan = a.plan AND status IN ('active', 'trialing', 'past_due')
    ORDER BY period_end DESC LIMIT 1
) s ON true
WHERE a.id = $1

-- name: features_claim
INSERT INTO feature_events (account_id, event_id, feature, units, period_start, used) VALUES ($1, $2, $3, $4, $5, 0)
ON CONFLICT (account_id, event_id) DO NOTHING RETURNING event_id

-- name: features_counted
UPDATE feature_events SET used = $3 WHERE account_id = $1 AND event_id = $2

-- name: features_known
SELECT feature, units, period_start, used FROM feature_events WHERE account_id = $1 AND event_id = $2

-- name: features_use
-- Count $4 units, where there are as many left of $5 (null: any number); no row where there are not.
INSERT INTO feature_units AS u (account_id, feature, period_start, used)
SELECT $1, $2, $3, $4 WHERE $5::bigint IS NULL OR $4 <= $5
ON CONFLICT (account_id, feature, period_start) DO UPDATE SET used = u.used + excluded.used
WHERE $5::bigint IS NULL OR u.used + excluded.used <= $5
RETURNING used

-- name: features_used
SELECT feature, used FROM feature_units WHERE account_id = $1 AND period_start = $2

-- name: service_holds_create
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

-- name: service_holds_get
SELECT id, account_id, event_id, service, payload, state, created_at, expires_at, ended_at, end_event_id, end_digest, end_answer
FROM service_holds WHERE id = ANY ($1::text[])

-- name: service_holds_void
-- Give a hold ($1) back that is open, and claim the event ($2) that does, unless its account knows that: no row then.
WITH open AS (
    SELECT id, account_id FROM service_holds WHERE id = $1 AND state = 'held' FOR NO KEY UPDATE
), claimed AS (
    INSERT INTO service_events (account_id, event_id, digest, request_id, answer)
    SELECT account_id, $2, $3, id, '' FROM open
    ON CONFLICT (account_id, event_id) DO NOTHING
    RETURNING request_id
)
UPDATE service_holds SET state = 'voided', ended_at = now(), end_event_id = $2, end_digest = $3
WHERE id IN (SELECT request_id FROM claimed) AND state = 'held'
RETURNING ended_at
