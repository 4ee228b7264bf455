-- Bytes of account $1 in each span between the bounds $2, from 0 on, by where they were counted: whole hours, and of the
-- hours $3, which bounds cut, the points.
WITH series AS MATERIALIZED (
    SELECT s.id, s.inbound_tag, n.node, n.region
    FROM collected_subjects AS u JOIN collected_series AS s ON s.subject = u.id JOIN collected_nodes AS n ON n.id = s.node
    WHERE u.account_id = $1
), counted AS (
    SELECT s.id, h.hour AS at, h.up_bytes AS up, h.down_bytes AS down
    FROM series AS s JOIN collected_hours AS h ON h.series = s.id
    WHERE h.hour >= ($2::timestamptz[])[1] AND h.hour < ($2::timestamptz[])[array_length($2, 1)]
        AND h.hour <> ALL ($3::timestamptz[])
    UNION ALL
    SELECT s.id, p.at, p.up_growth, p.down_growth
    FROM unnest($3::timestamptz[]) AS c (hour) CROSS JOIN series AS s
    JOIN collected_points AS p ON p.series = s.id AND p.at >= c.hour AND p.at < c.hour + interval '1 hour'
    WHERE p.at >= ($2::timestamptz[])[1] AND p.at < ($2::timestamptz[])[array_length($2, 1)]
)
SELECT width_bucket(c.at, $2::timestamptz[]) - 1 AS span, s.region, s.node, s.inbound_tag, sum(c.up)::bigint AS up,
    sum(c.down)::bigint AS down
FROM counted AS c JOIN series AS s ON s.id = c.id
GROUP BY 1, 2, 3, 4
HAVING sum(c.up) <> 0 OR sum(c.down) <> 0
