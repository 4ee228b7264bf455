-- $1 nodes, $2 uuids, $3 inbound tags.
INSERT INTO collected_series (node, subject, inbound_tag)
SELECT DISTINCT g.node, u.id, g.tag FROM unnest($1::bigint[], $2::text[], $3::text[]) AS g (node, uuid, tag)
CROSS JOIN LATERAL (SELECT id FROM collected_subjects WHERE uuid = g.uuid LIMIT 1) AS u
ORDER BY 1, 2, 3
ON CONFLICT (node, subject, inbound_tag) DO NOTHING
