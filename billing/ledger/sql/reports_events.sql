-- Events of account $1, newest first, after the place of a cursor. Of those in the time that is asked for at most $5 are looked
-- at, however few match: the last of them comes, too, and says so, so that the next page goes on from there.
SELECT *
FROM (
    SELECT looked_at.*, ($6::text IS NULL OR key_id = $6) AND ($7::text IS NULL OR user_id = $7)
        AND ($8::text IS NULL OR model = $8) AND ($9::text IS NULL OR provider = $9)
        AND ($10::text IS NULL OR endpoint = $10) AND ($11::integer IS NULL OR status = $11)
        AND ($12::boolean IS NULL OR estimated = $12) AND ($13::text IS NULL OR end_user = $13)
        AND ($14::text IS NULL OR tags ->> $14 IS NOT NULL AND ($15::text IS NULL OR tags ->> $14 = $15)) IS TRUE
        AND ($18::text IS NULL OR session = $18) AND ($19::text IS NULL OR tool = $19) AS matches
    FROM (
        SELECT *, row_number() OVER (ORDER BY admitted_at DESC, request_id DESC) = $5::bigint AS is_last
        FROM usage_events
        WHERE account_id = $1
            AND admitted_at >= coalesce($2::timestamptz, '-infinity')
            AND admitted_at < coalesce($3::timestamptz, 'infinity')
            AND admitted_at <= coalesce($4::timestamptz, 'infinity')
            AND ($4::timestamptz IS NULL OR (admitted_at, request_id) < ($4, $16::text))
        ORDER BY admitted_at DESC, request_id DESC
        LIMIT $5
    ) AS looked_at
) AS judged
WHERE matches OR is_last
ORDER BY admitted_at DESC, request_id DESC
LIMIT $17
