-- Forget hours of export $1 that are told and older than $2, at most $3.
DELETE FROM export_hours
WHERE ctid = ANY (ARRAY(SELECT ctid FROM export_hours WHERE export = $1 AND hour < $2 AND used = told LIMIT $3))
