-- Bytes of account $1 in each span between the bounds $2, from 0 on, by where they were counted: whole hours, and the points of hours
-- that bounds cut ($3) or moves of subjects between accounts do; hours before $4 have no points any more, and count where they begin.
WITH owned AS (
    SELECT u.id, coalesce((SELECT max(o.until) FROM collected_owners AS o WHERE o.subject = u.id), '-infinity') AS since,
        'infinity'::timestamptz AS until
    FROM collected_subjects AS u WHERE u.account_id = $1
    UNION ALL
    SELECT o.subject, coalesce((
        SELECT max(e.until) FROM collected_owners AS e WHERE e.subject = o.subject AND e.until < o.until
    ), '-infinity'), o.until
    FROM collected_owners AS o WHERE o.account_id = $1
), series AS MATERIALIZED (
    SELECT s.id, s.inbound_tag, n.node, n.region, u.since, u.until, ARRAY(
        SELECT DISTINCT hour FROM unnest(
            $3::timestamptz[] || date_trunc('hour', u.since, 'UTC') || date_trunc('hour', u.until, 'UTC')
        ) AS c (hour) WHERE hour >= $4
    ) AS cut
    FROM owned AS u JOIN collected_series AS s ON s.subject = u.id JOIN collected_nodes AS n ON n.id = s.node
), counted AS (
    SELECT s.inbound_tag, s.node, s.region, h.hour AS at, h.up_bytes AS up, h.down_bytes AS down
    FROM series AS s JOIN collected_hours AS h ON h.series = s.id
    WHERE h.hour >= s.since AND h.hour < s.until AND h.hour <> ALL (s.cut)
    UNION ALL
    SELECT s.inbound_tag, s.node, s.region, p.at, p.up_growth, p.down_growth
    FROM series AS s CROSS JOIN LATERAL unnest(s.cut) AS c (hour)
    JOIN collected_points AS p ON p.series = s.id AND p.at >= c.hour AND p.at < c.hour + interval '1 hour'
    WHERE p.at >= s.since AND p.at < s.until
)
SELECT width_bucket(c.at, $2::timestamptz[]) - 1 AS span, c.region, c.node, c.inbound_tag, sum(c.up) AS up,
    sum(c.down) AS down
FROM counted AS c
WHERE c.at >= ($2::timestamptz[])[1] AND c.at < ($2::timestamptz[])[array_length($2, 1)]
GROUP BY 1, 2, 3, 4
HAVING sum(c.up) <> 0 OR sum(c.down) <> 0
