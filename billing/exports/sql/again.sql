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
