-- An object was looked at: every event of it that had come before that, at $4, is done.
UPDATE payment_events SET state = 'done', error = NULL, ended_at = now()
WHERE state = 'waiting' AND provider = $1 AND ref_kind = $2 AND ref_id = $3 AND received_at <= $4
