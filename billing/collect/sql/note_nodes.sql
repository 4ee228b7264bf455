-- Nodes of source $1 ($2 node, $3 env, $4 first snapshot of this page), in region $5, by the rule $6 for first points. Returns
-- what each one's first snapshot was before, null for a new one.
WITH given AS (
    SELECT node, env, first_at FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS g (node, env, first_at)
), before AS (
    SELECT n.node, n.first_at FROM collected_nodes AS n JOIN given USING (node) WHERE n.source = $1
), noted AS (
    INSERT INTO collected_nodes AS n (source, node, env, region, first_at, first_point)
    SELECT $1, node, env, $5, first_at, $6 FROM given ORDER BY node
    ON CONFLICT (source, node) DO UPDATE
    SET env = excluded.env, region = excluded.region, first_at = least(n.first_at, excluded.first_at)
    RETURNING id, node, first_at
)
SELECT n.id, n.node, n.first_at, b.first_at AS first_before FROM noted AS n LEFT JOIN before AS b USING (node)
