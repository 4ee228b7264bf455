-- At most $3 points that are older than $2 days, by the clock of a gateway ($1) and by this one, but for the last of them of each
-- series: a late point grows from that.
DELETE FROM collected_points AS p
WHERE ctid = ANY (ARRAY(
    SELECT o.ctid FROM collected_points AS o
    WHERE o.at < least($1::timestamptz, now()) - $2 * interval '1 day' AND EXISTS (
        SELECT FROM collected_points AS l
        WHERE l.series = o.series AND l.at > o.at AND l.at < least($1::timestamptz, now()) - $2 * interval '1 day'
    )
    LIMIT $3
))
