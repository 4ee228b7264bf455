-- The series of these ($1 node, $2 uuid, $3 inbound tag), by their places; those that are not known yet are missing.
SELECT g.place, s.id
FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS g (node, uuid, tag, place)
JOIN collected_subjects AS u ON u.uuid = g.uuid
JOIN collected_series AS s ON s.node = g.node AND s.subject = u.id AND s.inbound_tag = g.tag
