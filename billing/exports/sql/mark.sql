-- An id above those of all transactions that have drawn a number so far.
SELECT pg_current_xact_id()::text::bigint
