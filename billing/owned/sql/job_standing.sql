-- What the ledger has decided of a job's request ($1), and whether nobody can settle it by its hold any more: the gateway ($2)
-- has released the job, or has ended, or has been silent for $5 seconds.
SELECT (SELECT outcome FROM usage_events WHERE request_id = $1) AS outcome,
    coalesce((SELECT released FROM background_jobs WHERE object_id = $3 AND provider = $4), true)
    OR NOT EXISTS (
        SELECT FROM gateways
        WHERE id = $2 AND ended_at IS NULL AND lease_until > now() - $5 * interval '1 second') AS unheld
