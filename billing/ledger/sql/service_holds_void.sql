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
