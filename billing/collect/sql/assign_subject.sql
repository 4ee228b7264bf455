-- Subject $1 is of account $2 from here on. Of one that had no account, all that was counted so far is to be charged to it. One that
-- had another is moved from the next minute on, by the clock of a gateway ($3) and by this one, and from after its newest point: no
-- minute that is known changes its account.
WITH before AS MATERIALIZED (
    SELECT id, account_id FROM collected_subjects WHERE id = $1
), series AS (
    SELECT s.id, n.region FROM collected_series AS s JOIN collected_nodes AS n ON n.id = s.node WHERE s.subject = $1
), newest AS (
    SELECT max(p.at) AS at FROM series AS s CROSS JOIN LATERAL (
        SELECT at FROM collected_points WHERE series = s.id ORDER BY at DESC LIMIT 1
    ) AS p
), moved AS (
    INSERT INTO collected_owners (subject, until, account_id)
    SELECT b.id, greatest(
        date_trunc('minute', greatest(least($3::timestamptz, now()), newest.at), 'UTC') + interval '1 minute',
        (SELECT max(until) FROM collected_owners WHERE subject = $1)
    ), b.account_id
    FROM before AS b CROSS JOIN newest WHERE b.account_id IS NOT NULL
    ON CONFLICT (subject, until) DO NOTHING  -- moved again before a minute was over: nothing was its last account's
), assigned AS (
    UPDATE collected_subjects SET account_id = $2, parked = false, assigned_at = now() WHERE id = $1
)
INSERT INTO collected_growth (subject, region, minute, bytes)
SELECT b.id, s.region, h.hour, sum(h.up_bytes::numeric + h.down_bytes)
FROM before AS b CROSS JOIN series AS s JOIN collected_hours AS h ON h.series = s.id
WHERE b.account_id IS NULL
GROUP BY 1, 2, 3
