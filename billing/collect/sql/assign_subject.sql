-- Subject $1 is of account $2 from here on: what was counted of it so far is to be charged.
WITH assigned AS (
    UPDATE collected_subjects SET account_id = $2, parked = false, assigned_at = now() WHERE id = $1
    RETURNING id
)
INSERT INTO collected_growth (subject, region, minute, bytes)
SELECT a.id, n.region, h.hour, sum(h.up_bytes::numeric + h.down_bytes)
FROM assigned AS a JOIN collected_series AS s ON s.subject = a.id JOIN collected_nodes AS n ON n.id = s.node
JOIN collected_hours AS h ON h.series = s.id
GROUP BY 1, 2, 3
