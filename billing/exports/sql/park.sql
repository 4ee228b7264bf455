-- Park item $2 of export $1.
INSERT INTO export_parked (export, item, admitted_at, account_id, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()
