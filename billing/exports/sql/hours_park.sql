-- Park an hour under number $5, unless that is told, and list it as item $6, refused by reason $7.
WITH hour AS (
    UPDATE export_hours SET parked = true
    WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 AND n = $5 AND NOT parked
    RETURNING hour, account_id
)
INSERT INTO export_parked (export, item, admitted_at, account_id, reason) SELECT $1, $6, hour, account_id, $7 FROM hour
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()
