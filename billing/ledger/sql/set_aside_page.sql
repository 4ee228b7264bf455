SELECT request_id, kind, debit, reason, created_at FROM debits_set_aside
WHERE request_id > $1 AND ($2::text[] IS NULL OR request_id = ANY ($2::text[])) ORDER BY request_id LIMIT $3
