-- Set a debit aside. It replaces the unreadable journal entry of the same request, because it says more.
INSERT INTO debits_set_aside (request_id, kind, debit, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (request_id) DO UPDATE SET kind = excluded.kind, debit = excluded.debit, reason = excluded.reason
WHERE debits_set_aside.kind = 'entry' AND excluded.kind = 'debit'
