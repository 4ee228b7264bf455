-- A page: snapshots ($1 node, $2 time, $3 whether a first point counts, $4 the place of its first sample, from 1 on) and samples ($5
-- uuid, $6 inbound tag, $7 up, $8 down; none twice). Points that are newer than all others of their series are written, with what
-- they grew by, their hours, and what is to be charged in region $9; $10 is the revision. Known ones are counted. Those that come
-- late or say more than before are returned: what they change is for `write_points` to find out. Where a series is lacking, nothing
-- is written.
--
-- A point is looked up by its key, or the newest one of its series is, whatever is known of the tables. Nobody else writes points
-- of this source: its checkpoint is locked.
WITH sent AS MATERIALIZED (
    SELECT ($2::timestamptz[])[width_bucket(g.place, $4::bigint[])] AS at,
        ($3::boolean[])[width_bucket(g.place, $4::bigint[])] AS is_counted,
        u.id AS subject, u.is_owned, s.id AS series, g.up, g.down
    FROM unnest($5::text[], $6::text[], $7::text::bigint[], $8::text::bigint[]) WITH ORDINALITY AS g (uuid, tag, up, down, place)
    LEFT JOIN LATERAL (
        SELECT id, account_id IS NOT NULL AS is_owned FROM collected_subjects WHERE uuid = g.uuid LIMIT 1
    ) AS u ON true
    LEFT JOIN LATERAL (
        SELECT id FROM collected_series
        WHERE node = ($1::bigint[])[width_bucket(g.place, $4::bigint[])] AND subject = u.id AND inbound_tag = g.tag LIMIT 1
    ) AS s ON true
), sums AS MATERIALIZED (
    SELECT count(*) - count(series) AS lacking FROM sent
), lined AS (
    SELECT s.*, lag(s.at) OVER points AS at_before, lag(s.up) OVER points AS up_lag, lag(s.down) OVER points AS down_lag
    FROM sent AS s CROSS JOIN sums WHERE sums.lacking = 0
    WINDOW points AS (PARTITION BY s.series ORDER BY s.at)
), ends AS (
    SELECT l.*, first_value(e.at) OVER points AS end_at, first_value(e.up) OVER points AS end_up,
        first_value(e.down) OVER points AS end_down
    FROM lined AS l LEFT JOIN LATERAL (
        SELECT at, up, down FROM collected_points AS p
        WHERE p.series = l.series AND l.at_before IS NULL ORDER BY p.at DESC LIMIT 1
    ) AS e ON true
    WINDOW points AS (PARTITION BY l.series ORDER BY l.at)
), judged AS MATERIALIZED (
    SELECT e.series, e.subject, e.is_owned, e.is_counted, e.at, e.up, e.down, n.is_new,
        CASE WHEN e.at_before > e.end_at OR e.end_at IS NULL THEN e.up_lag ELSE e.end_up END AS up_before,
        CASE WHEN e.at_before > e.end_at OR e.end_at IS NULL THEN e.down_lag ELSE e.end_down END AS down_before,
        NOT n.is_new AND (k.up IS NULL OR e.up > k.up OR e.down > k.down) AS is_late,
        NOT n.is_new AND (e.up, e.down) <> (k.up, k.down) AS conflicts
    FROM ends AS e CROSS JOIN LATERAL (SELECT e.end_at IS NULL OR e.at > e.end_at AS is_new) AS n
    LEFT JOIN LATERAL (
        SELECT up, down FROM collected_points AS p WHERE p.series = e.series AND p.at = e.at AND NOT n.is_new LIMIT 1
    ) AS k ON true
), counted AS MATERIALIZED (
    SELECT series, subject, is_owned, at, up, down,
        CASE WHEN up >= up_before THEN up - up_before WHEN up_before IS NOT NULL OR is_counted THEN up ELSE 0 END AS up_growth,
        CASE WHEN down >= down_before THEN down - down_before WHEN down_before IS NOT NULL OR is_counted THEN down ELSE 0
            END AS down_growth
    FROM judged WHERE is_new
), written AS (
    INSERT INTO collected_points (series, at, up, down, up_growth, down_growth, revision)
    SELECT series, at, up, down, up_growth, down_growth, $10 FROM counted
), by_hour AS (
    INSERT INTO collected_hours AS h (series, hour, up_bytes, down_bytes)
    SELECT series, date_trunc('hour', at, 'UTC'), sum(up_growth), sum(down_growth) FROM counted
    WHERE up_growth > 0 OR down_growth > 0
    GROUP BY 1, 2
    ON CONFLICT (series, hour) DO UPDATE
    SET up_bytes = h.up_bytes + excluded.up_bytes, down_bytes = h.down_bytes + excluded.down_bytes
), grown AS (
    INSERT INTO collected_grown (region, minute, subjects, bytes)
    SELECT $9, g.minute, array_agg(g.subject), array_agg(g.bytes) FROM (
        SELECT subject, date_trunc('minute', at, 'UTC') AS minute, sum(up_growth + down_growth) AS bytes FROM counted
        WHERE is_owned AND (up_growth > 0 OR down_growth > 0)
        GROUP BY 1, 2
    ) AS g
    GROUP BY g.minute
)
SELECT sums.lacking, m.conflicts, m.minutes, m.written, l.series, l.at, l.up, l.down
FROM sums CROSS JOIN (
    SELECT coalesce(sum(conflicts), 0)::bigint AS conflicts, count(*) AS minutes, count(*) FILTER (WHERE changes) AS written
    FROM (
        SELECT count(*) FILTER (WHERE conflicts) AS conflicts, bool_or(is_new OR is_late) AS changes FROM judged
        GROUP BY series, date_trunc('minute', at, 'UTC')
    ) AS minutes
) AS m CROSS JOIN (
    SELECT array_agg(series) AS series, array_agg(at) AS at, array_agg(up) AS up, array_agg(down) AS down
    FROM judged WHERE is_late
) AS l
