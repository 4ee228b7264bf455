-- Parked items, newest first, of export $1 or of all, below id $2.
SELECT id, export, item, admitted_at, account_id, reason, again, parked_at FROM export_parked
WHERE ($1::text IS NULL OR export = $1) AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3
