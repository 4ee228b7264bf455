-- The series of these ($1 node, $2 uuid, $3 inbound tag), by their places; those that are not known yet are missing. One lookup
-- after the other, whatever is known of the tables: the other way round a node's series would be read whole for each.
SELECT g.place, s.id
FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS g (node, uuid, tag, place)
CROSS JOIN LATERAL (SELECT id FROM collected_subjects WHERE uuid = g.uuid LIMIT 1) AS u
CROSS JOIN LATERAL (
    SELECT id FROM collected_series WHERE node = g.node AND subject = u.id AND inbound_tag = g.tag LIMIT 1
) AS s
