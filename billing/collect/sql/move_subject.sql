-- Subject $1 is of account $2 from the hour of $3 on, or from where its last account's time began, if that is later: what was charged
-- to that for hours since is due to be given back, and to be charged here. All growth is folded, and nobody writes any meanwhile.
WITH moved AS (
    SELECT u.id, u.account_id AS before, greatest(date_trunc('hour', $3::timestamptz, 'UTC'), max(o.until)) AS since
    FROM collected_subjects AS u LEFT JOIN collected_owners AS o ON o.subject = u.id
    WHERE u.id = $1
    GROUP BY u.id
), noted AS (
    INSERT INTO collected_owners (subject, until, account_id) SELECT id, since, before FROM moved
    ON CONFLICT (subject, until) DO NOTHING  -- it had nothing then
), assigned AS (
    UPDATE collected_subjects SET account_id = $2, parked = false, assigned_at = now() WHERE id = $1
), counted AS (
    SELECT m.before, n.region, h.hour, sum(h.up_bytes::numeric + h.down_bytes) AS bytes
    FROM moved AS m JOIN collected_series AS s ON s.subject = m.id JOIN collected_nodes AS n ON n.id = s.node
    JOIN collected_hours AS h ON h.series = s.id AND h.hour >= m.since
    GROUP BY 1, 2, 3
)
INSERT INTO collected_due AS d (account_id, region, hour, at, bytes)
SELECT o.account_id, c.region, c.hour, c.hour, sum(o.bytes)
FROM counted AS c CROSS JOIN LATERAL (VALUES (c.before, -c.bytes), ($2, c.bytes)) AS o (account_id, bytes)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (account_id, region, hour) DO UPDATE SET bytes = d.bytes + excluded.bytes, at = greatest(d.at, excluded.at)
