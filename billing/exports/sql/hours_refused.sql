-- Park an hour whose number $5 was taken and is refused by reason $7, and list it as item $6: what it had told counts as not told,
-- once. An hour that is not there any more, or whose number had told nothing, is not listed: there is nothing to tell anew.
-- Where a release before amounts was there has told it, the last one alone is known.
WITH refused AS (
    SELECT coalesce(amounts[$5 + 1], CASE WHEN n = $5 + 1 THEN last END) AS amount FROM export_hours
    WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 FOR UPDATE
), untold AS (
    UPDATE export_hours AS h SET parked = true, told = told - refused.amount, amounts[$5 + 1] = 0, last = NULL
    FROM refused WHERE h.export = $1 AND h.account_id = $2 AND h.meter = $3 AND h.hour = $4 AND refused.amount > 0
    RETURNING h.hour, h.account_id
)
INSERT INTO export_parked (export, item, admitted_at, account_id, reason)
SELECT $1, $6, hour, account_id, $7 FROM untold
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()
