-- Nodes of source $1 ($2 node, $3 env, $4 first snapshot of this page), in region $5, by the rule $6 for first points. Returns
-- what each one's first snapshot was before, null for a new one. A node that is as it was is not written.
WITH given AS (
    SELECT node, env, first_at FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS g (node, env, first_at)
), before AS (
    SELECT n.* FROM collected_nodes AS n JOIN given USING (node) WHERE n.source = $1
), noted AS (
    INSERT INTO collected_nodes AS n (source, node, env, region, first_at, first_point)
    SELECT $1, g.node, g.env, $5, g.first_at, $6 FROM given AS g LEFT JOIN before AS b USING (node)
    WHERE b.id IS NULL OR (b.env, b.region) <> (g.env, $5) OR g.first_at < b.first_at
    ORDER BY g.node
    ON CONFLICT (source, node) DO UPDATE
    SET env = excluded.env, region = excluded.region, first_at = least(n.first_at, excluded.first_at)
    RETURNING id, node, first_at, first_point
)
SELECT coalesce(n.id, b.id) AS id, node, coalesce(n.first_at, b.first_at) AS first_at,
    coalesce(n.first_point, b.first_point) AS first_point, b.first_at AS first_before
FROM given LEFT JOIN before AS b USING (node) LEFT JOIN noted AS n USING (node)
