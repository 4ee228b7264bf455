-- A debit says more than the journal's entry that could not be read: it takes that one's place.
INSERT INTO debits_set_aside (request_id, kind, debit, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (request_id) DO UPDATE SET kind = excluded.kind, debit = excluded.debit, reason = excluded.reason
WHERE debits_set_aside.kind = 'entry' AND excluded.kind = 'debit'
