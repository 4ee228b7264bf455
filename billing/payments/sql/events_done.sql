-- Mark as done every event of an object that had come before the object was fetched, at $4.
UPDATE payment_events SET state = 'done', error = NULL, ended_at = now()
WHERE state = 'waiting' AND provider = $1 AND ref_kind = $2 AND ref_id = $3 AND received_at <= $4
