-- Statements of `billing.notices`, each under its name. `billing.database.connection.queries` reads them.

-- name: deliveries_again
-- Have a delivery tried again, by hand, as if it were new.
UPDATE webhook_deliveries SET attempts = 0, next_attempt_at = now(), delivered_at = NULL, parked_at = NULL, error = NULL,
    status = NULL
WHERE id = $1

-- name: deliveries_claim
-- Take the delivery that is due next, but for those to the endpoints $3 ('' is NOTIFICATION_WEBHOOK), which are sent to
-- now. It is due again after $1 seconds, twice as long for each try before, at most $2: also where whoever took it dies.
UPDATE webhook_deliveries d SET attempts = attempts + 1,
    next_attempt_at = now() + least($2, $1 * 2.0 ^ least(attempts, 30)) * interval '1 second'
FROM notices n
WHERE n.id = d.notice_id AND d.id = (
    SELECT id FROM webhook_deliveries
    WHERE delivered_at IS NULL AND parked_at IS NULL AND next_attempt_at <= now() AND coalesce(endpoint_id, '') <> ALL($3::text[])
    ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING d.id, d.attempts, d.endpoint_id, n.id AS notice_id, n.account_id, n.type, n.data, n.created_at

-- name: deliveries_done
WITH mended AS (
    UPDATE webhook_endpoints e SET failing_since = NULL FROM webhook_deliveries d
    WHERE d.id = $1 AND e.id = d.endpoint_id AND e.failing_since IS NOT NULL
)
UPDATE webhook_deliveries SET delivered_at = now(), status = $2, error = NULL WHERE id = $1

-- name: deliveries_failed
-- A try failed; with $4 it is given up. Returns since when all deliveries to its endpoint have failed.
WITH failed AS (
    UPDATE webhook_deliveries SET status = $2, error = $3, parked_at = CASE WHEN $4 THEN now() END WHERE id = $1
    RETURNING endpoint_id
)
UPDATE webhook_endpoints e SET failing_since = coalesce(e.failing_since, now()) FROM failed WHERE e.id = failed.endpoint_id
RETURNING extract(epoch FROM now() - e.failing_since)::float8 AS failing_s

-- name: deliveries_get
SELECT d.*, n.type FROM webhook_deliveries d
JOIN webhook_endpoints e ON e.id = d.endpoint_id
JOIN notices n ON n.id = d.notice_id
WHERE d.id = $1 AND d.endpoint_id = $2 AND e.account_id IS NOT DISTINCT FROM $3

-- name: deliveries_page
SELECT d.*, n.type FROM webhook_deliveries d
JOIN webhook_endpoints e ON e.id = d.endpoint_id
JOIN notices n ON n.id = d.notice_id
WHERE d.endpoint_id = $1 AND e.account_id IS NOT DISTINCT FROM $2
    AND ($3::timestamptz IS NULL OR (d.created_at, d.id) < ($3, $4))
ORDER BY d.created_at DESC, d.id DESC LIMIT $5

-- name: endpoints_count
SELECT count(*) FROM webhook_endpoints WHERE account_id IS NOT DISTINCT FROM $1

-- name: endpoints_delete
DELETE FROM webhook_endpoints WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING id

-- name: endpoints_disable
-- Disable an endpoint and give up what waits for it.
WITH ended AS (
    UPDATE webhook_endpoints SET disabled_at = now(), disabled_reason = $2 WHERE id = $1 AND disabled_at IS NULL
    RETURNING id, account_id, url
), parked AS (
    UPDATE webhook_deliveries SET parked_at = now(), error = coalesce(error, 'the endpoint is disabled')
    WHERE endpoint_id = $1 AND delivered_at IS NULL AND parked_at IS NULL
)
SELECT id, account_id, url FROM ended

-- name: endpoints_failing
SELECT count(*) FROM webhook_endpoints
WHERE account_id = $1 AND (disabled_at IS NULL AND failing_since IS NOT NULL
    OR disabled_at IS NOT NULL AND disabled_reason <> 'by hand')

-- name: endpoints_get
SELECT * FROM webhook_endpoints WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2

-- name: endpoints_insert
INSERT INTO webhook_endpoints (id, account_id, url, format, routing_key, secret, types, description)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *

-- name: endpoints_lock
-- Endpoints of one owner are made one after another, so that their number keeps its bound.
SELECT pg_advisory_xact_lock(hashtextextended('webhook_endpoints:' || coalesce($1, ''), 0))

-- name: endpoints_page
SELECT * FROM webhook_endpoints WHERE account_id IS NOT DISTINCT FROM $1 AND id < $2 ORDER BY id DESC LIMIT $3

-- name: endpoints_rotate
UPDATE webhook_endpoints SET old_secret = secret, old_secret_until = now() + $4 * interval '1 second', secret = $3
WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING *

-- name: endpoints_target
SELECT url, format, routing_key, secret, CASE WHEN old_secret_until > now() THEN old_secret END AS old_secret, disabled_at
FROM webhook_endpoints WHERE id = $1

-- name: endpoints_update
-- Change an endpoint; enabling it resets the count of its failures.
UPDATE webhook_endpoints SET url = $3, types = $4, description = $5, format = $6, routing_key = $7,
    disabled_at = CASE WHEN $8 THEN NULL ELSE coalesce(disabled_at, now()) END,
    disabled_reason = CASE WHEN $8 THEN NULL ELSE coalesce(disabled_reason, 'by hand') END,
    failing_since = CASE WHEN $8 AND disabled_at IS NOT NULL THEN NULL ELSE failing_since END
WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING *

-- name: notices_emit
INSERT INTO notices (account_id, type, data, once) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id, type, once) DO NOTHING RETURNING id

-- name: notices_hand_out
-- Write a delivery of each notice for each endpoint that gets it and, with $2, for NOTIFICATION_WEBHOOK.
WITH these AS (
    UPDATE notices SET handed_out_at = now() WHERE id = ANY($1::text[]) RETURNING id, account_id, type
), written AS (
    INSERT INTO webhook_deliveries (notice_id, endpoint_id)
    SELECT these.id, e.id FROM these
    JOIN webhook_endpoints e ON (e.account_id = these.account_id OR e.account_id IS NULL)
        AND e.disabled_at IS NULL AND (e.types IS NULL OR these.type = ANY(e.types))
    UNION ALL
    SELECT these.id, NULL FROM these WHERE $2
    RETURNING 1
)
SELECT count(*) FROM written

-- name: notices_recipients
-- Who is told by mail: owners and admins of the organization that has the account $1; of a budget ($3) the members whom it names,
-- where it names some.
SELECT users.email FROM organizations
JOIN memberships ON memberships.org_id = organizations.id
JOIN users ON users.id = memberships.user_id AND users.status = 'active' AND users.email_verified_at IS NOT NULL
LEFT JOIN budgets ON budgets.id = $3 AND cardinality(budgets.notify) > 0
WHERE organizations.account_id = $1
    AND CASE WHEN budgets.id IS NULL THEN memberships.role IN ('owner', 'admin') ELSE users.email = ANY(budgets.notify) END
ORDER BY memberships.created_at LIMIT $2

-- name: notices_test
-- A notice for one endpoint alone, about the account that has it (an operator's: about none).
WITH made AS (
    INSERT INTO notices (account_id, type, data, handed_out_at)
    SELECT coalesce(account_id, ''), 'test', '{}', now() FROM webhook_endpoints
    WHERE id = $1 AND account_id IS NOT DISTINCT FROM $2 RETURNING id
)
INSERT INTO webhook_deliveries (notice_id, endpoint_id) SELECT id, $1 FROM made RETURNING id

-- name: notices_waiting
SELECT id, account_id, type, data, created_at FROM notices WHERE handed_out_at IS NULL
ORDER BY created_at, id LIMIT $1 FOR UPDATE SKIP LOCKED

-- name: troubles_begin
INSERT INTO troubles (about, message) VALUES ($1, $2) ON CONFLICT (about) DO NOTHING RETURNING about

-- name: troubles_end
DELETE FROM troubles WHERE about = $1 RETURNING message

-- name: troubles_told
SELECT about FROM troubles

-- name: outbox_forget
-- Delete notices older than $1 days with their deliveries, whose tries have ended after hours at most.
WITH old AS (
    SELECT id FROM notices WHERE handed_out_at IS NOT NULL AND created_at < now() - $1 * interval '1 day'
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM notices USING old WHERE notices.id = old.id RETURNING 1)
SELECT count(*) FROM gone

-- name: outbox_standing
SELECT
    (SELECT count(*) FROM notices WHERE handed_out_at IS NULL)
        + (SELECT count(*) FROM webhook_deliveries WHERE delivered_at IS NULL AND parked_at IS NULL) AS waiting,
    (SELECT count(*) FROM webhook_deliveries WHERE parked_at IS NOT NULL) AS parked,
    coalesce((SELECT extract(epoch FROM now() - min(created_at)) FROM (
        SELECT min(created_at) AS created_at FROM notices WHERE handed_out_at IS NULL
        UNION ALL
        SELECT min(created_at) FROM webhook_deliveries WHERE delivered_at IS NULL AND parked_at IS NULL
    ) AS oldest), 0)::float8 AS lag_s
