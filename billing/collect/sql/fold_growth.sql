-- At most $1 rows of growth and $2 pages of it become due, by the account whose the subject was at that time, region and hour; how
-- many of both.
WITH taken AS (
    DELETE FROM collected_growth WHERE ctid = ANY (ARRAY(SELECT ctid FROM collected_growth LIMIT $1))
    RETURNING subject, region, minute, bytes
), pages AS (
    DELETE FROM collected_grown WHERE ctid = ANY (ARRAY(SELECT ctid FROM collected_grown LIMIT $2))
    RETURNING region, minute, subjects, bytes
), due AS (
    INSERT INTO collected_due AS d (account_id, region, hour, at, bytes)
    SELECT coalesce(o.account_id, u.account_id), t.region, date_trunc('hour', t.minute, 'UTC'), max(t.minute), sum(t.bytes)
    FROM (
        SELECT subject, region, minute, bytes FROM taken
        UNION ALL
        SELECT subject, region, minute, sum(g.bytes)
        FROM pages AS p CROSS JOIN LATERAL unnest(p.subjects, p.bytes) AS g (subject, bytes)
        GROUP BY 1, 2, 3
    ) AS t JOIN collected_subjects AS u ON u.id = t.subject
    LEFT JOIN LATERAL (
        SELECT account_id FROM collected_owners WHERE subject = t.subject AND until > t.minute ORDER BY until LIMIT 1
    ) AS o ON true
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (account_id, region, hour) DO UPDATE
    SET bytes = d.bytes + excluded.bytes, at = greatest(d.at, excluded.at)
)
SELECT (SELECT count(*) FROM taken) + (SELECT count(*) FROM pages)
