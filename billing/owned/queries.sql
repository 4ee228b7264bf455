-- Statements of `billing.owned`, each under its name. `billing.database.connection.queries` reads them.

-- name: begin_job
INSERT INTO background_jobs (
    object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + $10 * interval '1 second', $8, now() + $11 * interval '1 second')
ON CONFLICT DO NOTHING

-- name: claim_jobs
-- Jobs whose lease has lapsed, at most $3 of them, become the gateway's ($1) for $2 seconds.
UPDATE background_jobs SET lease_owner = $1, lease_until = now() + $2 * interval '1 second'
WHERE (object_id, provider) IN (
    SELECT object_id, provider FROM background_jobs
    WHERE done_at IS NULL AND lease_until < now()
    ORDER BY lease_until LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    extract(epoch FROM created_at)::float8 AS created_s, extract(epoch FROM expires_at)::float8 AS expires_s

-- name: find_objects
-- Those of the objects $2 that are the account's ($1), the oldest first.
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM provider_objects WHERE object_id = ANY ($2::text[]) AND account_id = $1 ORDER BY created_at

-- name: forget_jobs
-- Delete jobs that were done more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM background_jobs WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM background_jobs WHERE done_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: forget_objects
-- Delete objects that were recorded more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM provider_objects WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM provider_objects WHERE created_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: job_standing
-- What the ledger has decided of a job's request ($1), and whether nobody can settle it by its hold any more: the gateway ($2)
-- has released the job, or has ended, or has been silent for $5 seconds.
SELECT (SELECT outcome FROM usage_events WHERE request_id = $1) AS outcome,
    coalesce((SELECT released FROM background_jobs WHERE object_id = $3 AND provider = $4), true)
    OR NOT EXISTS (
        SELECT FROM gateways
        WHERE id = $2 AND ended_at IS NULL AND lease_until > now() - $5 * interval '1 second') AS unheld

-- name: record_objects
-- Objects of one account each, as a JSON array ($1). One that is known stays its first account's; of its own account's it takes
-- the total that is known now. Returns what is the given account's.
INSERT INTO provider_objects AS known (object_id, provider, account_id, kind, model, total_tokens)
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM jsonb_to_recordset($1::text::jsonb) AS given (
    object_id text, provider text, account_id text, kind text, model text, total_tokens bigint)
ON CONFLICT (object_id, provider) DO UPDATE
    SET total_tokens = coalesce(EXCLUDED.total_tokens, known.total_tokens)
    WHERE known.account_id = EXCLUDED.account_id
RETURNING object_id, provider

-- name: release_job
-- Release a job from the gateway ($3): another may poll it, and settle it by a hold of its own.
UPDATE background_jobs SET lease_until = now(), released = released OR gateway_id = $3
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL

-- name: renew_job
UPDATE background_jobs SET lease_until = now() + $4 * interval '1 second'
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL
RETURNING true
