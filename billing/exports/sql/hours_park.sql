-- Park an hour under number $5, which is not told yet, and list it as item $6, refused by reason $7.
WITH hour AS (
    UPDATE export_hours SET parked = true
    WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 AND n = $5 AND NOT parked
)
INSERT INTO export_parked (export, item, admitted_at, account_id, reason) VALUES ($1, $6, $4, $2, $7)
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()
