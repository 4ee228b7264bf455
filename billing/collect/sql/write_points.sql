-- Points of a page ($1 series, $2 time, $3 up, $4 down; no point twice), and what follows from them: the growth of each new
-- point and of the one after it, its hours, and what is to be charged. $5 is the revision. Of nodes whose first snapshot
-- turns out to be an earlier one ($6), the points of what was the first one ($7) are looked at again.
--
-- All that is read here is the set of points around the new ones, so that the outcome is a matter of the set alone. A known
-- point stays, of two values the larger one. Lookups are by the primary key, one for each point. Nobody else writes points of
-- this source: its checkpoint is locked.
WITH given AS MATERIALIZED (
    SELECT g.series, g.at, greatest(g.up, p.up) AS up, greatest(g.down, p.down) AS down, p.series IS NULL AS is_new,
        coalesce(p.up_growth, 0) AS up_was, coalesce(p.down_growth, 0) AS down_was,
        p.series IS NULL OR g.up > p.up OR g.down > p.down AS changes,
        p.series IS NOT NULL AND (g.up, g.down) <> (p.up, p.down) AS conflicts
    FROM unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::bigint[]) AS g (series, at, up, down)
    LEFT JOIN collected_points AS p ON p.series = g.series AND p.at = g.at
), looked_at AS MATERIALIZED (
    SELECT series, at, up, down, up_was, down_was, is_new FROM given WHERE changes
    UNION ALL
    SELECT p.series, p.at, p.up, p.down, p.up_growth, p.down_growth, false
    FROM unnest($6::bigint[], $7::timestamptz[]) AS n (node, at) JOIN collected_series AS s ON s.node = n.node
    JOIN collected_points AS p ON p.series = s.id AND p.at = n.at
), lined AS (
    SELECT DISTINCT ON (series, at) * FROM (
        SELECT *, 0 AS rank FROM looked_at
        UNION ALL
        SELECT l.series, a.*, false, 1 FROM looked_at AS l CROSS JOIN LATERAL (
            SELECT at, up, down, up_growth, down_growth FROM collected_points AS p
            WHERE p.series = l.series AND p.at > l.at ORDER BY p.at LIMIT 1
        ) AS a
        UNION ALL
        SELECT l.series, b.*, false, 2 FROM looked_at AS l CROSS JOIN LATERAL (
            SELECT at, up, down, up_growth, down_growth FROM collected_points AS p
            WHERE p.series = l.series AND p.at < l.at ORDER BY p.at DESC LIMIT 1
        ) AS b
    ) AS found
    ORDER BY series, at, rank, up DESC, down DESC
), counted AS MATERIALIZED (
    SELECT f.series, f.at, f.up, f.down, f.up_was, f.down_was, f.is_new, s.subject, n.region,
        CASE WHEN f.up >= f.up_before THEN f.up - f.up_before WHEN f.up_before IS NOT NULL OR z.is_counted THEN f.up ELSE 0
            END AS up_growth,
        CASE WHEN f.down >= f.down_before THEN f.down - f.down_before
            WHEN f.down_before IS NOT NULL OR z.is_counted THEN f.down ELSE 0 END AS down_growth
    FROM (
        SELECT *, lag(up) OVER points AS up_before, lag(down) OVER points AS down_before
        FROM lined WINDOW points AS (PARTITION BY series ORDER BY at)
    ) AS f JOIN collected_series AS s ON s.id = f.series JOIN collected_nodes AS n ON n.id = s.node
    CROSS JOIN LATERAL (
        SELECT n.first_point = 'zero' OR (n.first_point = 'new' AND f.at > n.first_at) AS is_counted
    ) AS z
    WHERE f.rank < 2
), written AS (
    INSERT INTO collected_points (series, at, up, down, up_growth, down_growth, revision)
    SELECT series, at, up, down, up_growth, down_growth, $5 FROM counted WHERE is_new
), mended AS (
    UPDATE collected_points AS p SET up = c.up, down = c.down, up_growth = c.up_growth, down_growth = c.down_growth,
        revision = $5
    FROM counted AS c
    WHERE NOT c.is_new AND p.series = c.series AND p.at = c.at
        AND (p.up, p.down, p.up_growth, p.down_growth) <> (c.up, c.down, c.up_growth, c.down_growth)
), changed AS MATERIALIZED (
    SELECT series, subject, region, at, up_growth - up_was AS up, down_growth - down_was AS down FROM counted
    WHERE (up_growth, down_growth) <> (up_was, down_was)
), by_hour AS (
    INSERT INTO collected_hours AS h (series, hour, up_bytes, down_bytes)
    SELECT series, date_trunc('hour', at, 'UTC'), sum(up), sum(down) FROM changed GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (series, hour) DO UPDATE
    SET up_bytes = h.up_bytes + excluded.up_bytes, down_bytes = h.down_bytes + excluded.down_bytes
), grown AS (
    INSERT INTO collected_growth (subject, region, minute, bytes)
    SELECT c.subject, c.region, date_trunc('minute', c.at, 'UTC'), sum(c.up + c.down)
    FROM changed AS c JOIN collected_subjects AS u ON u.id = c.subject AND u.account_id IS NOT NULL
    GROUP BY 1, 2, 3
)
SELECT coalesce(sum(conflicts), 0)::bigint AS conflicts, count(*) AS minutes, count(*) FILTER (WHERE changes) AS written
FROM (
    SELECT count(*) FILTER (WHERE conflicts) AS conflicts, bool_or(changes) AS changes FROM given
    GROUP BY series, date_trunc('minute', at, 'UTC')
) AS minutes
