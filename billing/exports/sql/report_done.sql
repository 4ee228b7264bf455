UPDATE payment_events SET state = 'done' WHERE provider = $1 AND id = $2 AND state = 'ignored'
