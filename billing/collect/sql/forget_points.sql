-- At most $3 points that are older than $2 days, but for the last of them of each series: a late point grows from that.
DELETE FROM collected_points AS p
WHERE ctid = ANY (ARRAY(
    SELECT o.ctid FROM collected_points AS o
    WHERE o.at < $1::timestamptz - $2 * interval '1 day' AND EXISTS (
        SELECT FROM collected_points AS l
        WHERE l.series = o.series AND l.at > o.at AND l.at < $1::timestamptz - $2 * interval '1 day'
    )
    LIMIT $3
))
