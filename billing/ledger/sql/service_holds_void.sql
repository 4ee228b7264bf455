-- Give a hold ($1) back that is open.
UPDATE service_holds SET state = 'voided', ended_at = now(), end_event_id = $2, end_digest = $3
WHERE id = $1 AND state = 'held'
RETURNING ended_at
