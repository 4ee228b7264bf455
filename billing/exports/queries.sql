-- Statements of `billing.exports`, each under its name. `billing.database.connection.queries` reads them.

-- name: advance
-- Move export $1 from number $2 to $3, which was accepted; no row where that is done.
UPDATE exports SET wseq = $3, claimed = NULL, failures = 0, next_at = now(), error = NULL,
    accepted_at = CASE WHEN $4 THEN now() ELSE accepted_at END
WHERE name = $1 AND wseq = $2
RETURNING name

-- name: again
-- Have what is parked of export $1 tried again: item $2, or all of it. Whoever asks for it has seen that the other side lacks it,
-- so that the time for which it knows identifiers begins anew.
WITH chosen AS (
    UPDATE export_parked SET again = true WHERE export = $1 AND ($2::text IS NULL OR item = $2) RETURNING item
), hours AS (
    UPDATE export_hours AS h SET parked = false, asked_at = NULL FROM chosen
    WHERE h.export = $1 AND h.parked
        AND starts_with(chosen.item, concat_ws(':', h.account_id, h.meter, to_char(h.hour, 'YYYYMMDDHH24'), ''))
), now_due AS (
    UPDATE exports SET next_at = now() WHERE name = $1 AND EXISTS (SELECT FROM chosen)
)
SELECT count(*) FROM chosen

-- name: claim
-- Store where the batch of export $1 after number $2 ends, unless that is stored.
UPDATE exports SET claimed = $3 WHERE name = $1 AND wseq = $2 AND claimed IS NULL RETURNING claimed

-- name: ended
-- Whether every transaction has ended whose id is below that of mark $1; null where this server has not come to the mark: it is
-- another one than the one that gave it.
SELECT CASE WHEN xmax > $1 THEN xmin >= $1 END
FROM (
    SELECT pg_snapshot_xmin(now_is)::text::bigint AS xmin, pg_snapshot_xmax(now_is)::text::bigint AS xmax
    FROM pg_current_snapshot() AS now_is
) AS snapshot

-- name: events
-- Events after number $1 up to $2, in their order, at most $3 (null: all); without those that have used nothing.
SELECT e.*
FROM usage_events AS e
WHERE e.wseq > $1 AND e.wseq <= $2
    AND (e.outcome = 'settled' OR e.input_tokens + e.output_tokens > 0 OR e.charged_nano > 0)
ORDER BY e.wseq
LIMIT $3

-- name: events_between
-- Events admitted from $1 on and before $2, in the order of their admission; without those that have used nothing.
SELECT e.*
FROM usage_events AS e
WHERE e.admitted_at >= $1 AND e.admitted_at < $2
    AND (e.outcome = 'settled' OR e.input_tokens + e.output_tokens > 0 OR e.charged_nano > 0)
ORDER BY e.admitted_at, e.request_id

-- name: failed
-- Note a failure of export $1, which is tried again after $2 seconds.
UPDATE exports SET failures = failures + 1, next_at = now() + $2 * interval '1 second', error = $3 WHERE name = $1

-- name: hours_due
-- Hours of export $1 that began $3 ago by the clock of a gateway ($2) and by this one, and have used more than was told, oldest first,
-- at most $4. What is to be told of each is stored, where it is not yet.
WITH due AS MATERIALIZED (
    SELECT account_id, meter, hour FROM export_hours
    WHERE export = $1 AND used > told AND NOT parked AND hour < least($2::timestamptz, now()) - $3::interval
    ORDER BY hour LIMIT $4
)
UPDATE export_hours AS h SET asked = coalesce(h.asked, h.used - h.told), asked_at = coalesce(h.asked_at, now())
FROM due
WHERE h.export = $1 AND h.account_id = due.account_id AND h.meter = due.meter AND h.hour = due.hour
RETURNING h.account_id, h.meter, h.hour, h.n, h.asked::bigint AS amount, now() - h.asked_at AS since

-- name: hours_fold
-- Add amounts to the hours of export $1: account, meter, hour, amount.
INSERT INTO export_hours AS h (export, account_id, meter, hour, used)
SELECT $1, account_id, meter, hour, sum(amount)
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::bigint[]) AS t (account_id, meter, hour, amount)
GROUP BY account_id, meter, hour
ORDER BY account_id, meter, hour
ON CONFLICT (export, account_id, meter, hour) DO UPDATE SET used = h.used + excluded.used

-- name: hours_forget
-- Forget hours of export $1 that are told and older than $2, at most $3.
DELETE FROM export_hours
WHERE ctid = ANY (ARRAY(SELECT ctid FROM export_hours WHERE export = $1 AND hour < $2 AND used = told LIMIT $3))

-- name: hours_park
-- Park an hour under number $5, unless that is told, and list it as item $6, refused by reason $7.
WITH hour AS (
    UPDATE export_hours SET parked = true
    WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 AND n = $5 AND NOT parked
    RETURNING hour, account_id
)
INSERT INTO export_parked (export, item, admitted_at, account_id, reason) SELECT $1, $6, hour, account_id, $7 FROM hour
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()

-- name: hours_refused
-- Park an hour whose number $5 was taken and is refused by reason $7, and list it as item $6: what it had told counts as not told,
-- once. An hour that is not there any more, or whose number had told nothing, is not listed: there is nothing to tell anew.
WITH refused AS (
    SELECT amounts[$5 + 1] AS amount FROM export_hours
    WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 FOR UPDATE
), untold AS (
    UPDATE export_hours AS h SET parked = true, told = told - refused.amount, amounts[$5 + 1] = 0
    FROM refused WHERE h.export = $1 AND h.account_id = $2 AND h.meter = $3 AND h.hour = $4 AND refused.amount > 0
    RETURNING h.hour, h.account_id
)
INSERT INTO export_parked (export, item, admitted_at, account_id, reason)
SELECT $1, $6, hour, account_id, $7 FROM untold
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()

-- name: hours_told
-- Note that the amount of number $5 was told for an hour; nothing where another gateway has noted it.
UPDATE export_hours SET told = told + asked, amounts[n + 1] = asked, asked = NULL, asked_at = NULL, n = n + 1
WHERE export = $1 AND account_id = $2 AND meter = $3 AND hour = $4 AND n = $5 AND asked IS NOT NULL

-- name: hours_unlist
-- Take off the list what was parked of an hour and is told now.
DELETE FROM export_parked WHERE export = $1 AND again AND starts_with(item, $2)

-- name: lease
-- Take or keep the lease of export $1 for $3 seconds; no row where another gateway has it.
UPDATE exports SET owner = $2, lease_until = now() + $3 * interval '1 second'
WHERE name = $1 AND (owner IS NOT DISTINCT FROM $2 OR lease_until <= now())
RETURNING wseq, claimed, failures, greatest(0, extract(epoch FROM next_at - now()))::float AS wait_s

-- name: mark
-- An id above those of all transactions that have drawn a number so far.
SELECT pg_current_xact_id()::text::bigint

-- name: open
-- Make export $1 of kind $2 known. It begins with what is written from now on or, where $3, with the first event that has a number.
INSERT INTO exports (name, kind, wseq)
SELECT $1, $2, CASE WHEN $3 THEN 0 ELSE (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written) END
ON CONFLICT DO NOTHING

-- name: park
-- Park item $2 of export $1.
INSERT INTO export_parked (export, item, admitted_at, account_id, reason) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (export, item) DO UPDATE SET reason = excluded.reason, again = false, parked_at = now()

-- name: parked
-- Parked items, newest first, of export $1 or of all, below id $2.
SELECT id, export, item, admitted_at, account_id, reason, again, parked_at FROM export_parked
WHERE ($1::text IS NULL OR export = $1) AND ($2::bigint IS NULL OR id < $2)
ORDER BY id DESC
LIMIT $3

-- name: parked_again
-- Events of export $1 that are to be tried again, at most $2.
SELECT e.*
FROM export_parked AS p JOIN usage_events AS e ON e.request_id = p.item AND e.admitted_at = p.admitted_at
WHERE p.export = $1 AND p.again
ORDER BY p.id
LIMIT $2

-- name: report_done
UPDATE payment_events SET state = 'done' WHERE provider = $1 AND id = $2 AND state = 'ignored'

-- name: reports_waiting
-- Reports of provider $1 that meters have refused events, which nobody has looked into.
SELECT id FROM payment_events
WHERE provider = $1 AND type = 'billing.meter.error_report_triggered' AND state = 'ignored' AND livemode = $2
ORDER BY number LIMIT 10

-- name: standing
-- How far export $1 is, or each of them: at most how many events wait, how long the oldest has, and what is parked.
SELECT x.name, x.kind, x.failures, x.error, x.accepted_at, x.created_at,
    greatest(0, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written) - x.wseq)::bigint AS waiting,
    coalesce(greatest(extract(epoch FROM now() - first.created_at), extract(epoch FROM now() - due.asked_at), 0), 0)::float AS lag_s,
    (SELECT count(*) FROM export_parked AS p WHERE p.export = x.name) AS parked
FROM exports AS x
LEFT JOIN LATERAL (
    SELECT e.created_at FROM usage_events AS e WHERE e.wseq > x.wseq ORDER BY e.wseq LIMIT 1
) AS first ON true
LEFT JOIN LATERAL (
    SELECT min(coalesce(h.asked_at, h.hour + interval '1 hour')) AS asked_at FROM export_hours AS h
    WHERE h.export = x.name AND h.used > h.told AND NOT h.parked
) AS due ON true
WHERE $1::text IS NULL OR x.name = $1
ORDER BY x.name

-- name: subject_made
INSERT INTO export_subjects (export, account_id) VALUES ($1, $2) ON CONFLICT DO NOTHING

-- name: subjects
-- Which of accounts $2 export $1 has not made known yet, with what the other side is told of them.
SELECT a.id, a.name, a.created_at FROM accounts AS a
WHERE a.id = ANY ($2::text[])
    AND NOT EXISTS (SELECT FROM export_subjects AS s WHERE s.export = $1 AND s.account_id = a.id)
ORDER BY a.id

-- name: unpark
-- Take items $2 of export $1 off the list.
DELETE FROM export_parked WHERE export = $1 AND item = ANY ($2::text[])

-- name: written
-- The last number that was drawn. To be asked before `mark`.
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM usage_written
