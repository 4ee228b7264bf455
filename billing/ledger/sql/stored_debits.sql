-- Return what the ledger decided about requests that it had already.
SELECT request_id, outcome, xseq FROM usage_events WHERE request_id = ANY ($1::text[])
