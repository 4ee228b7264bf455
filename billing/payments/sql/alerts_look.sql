-- Of $2 accounts after $1: those above their threshold (else $3) are armed, and those below that were are not any more and
-- are returned; and where the next look begins.
WITH page AS (
    SELECT a.id, a.balance_nano + a.credit_limit_nano AS available_nano, coalesce(b.armed, false) AS armed,
        coalesce(b.threshold_nano, $3::bigint) AS threshold_nano
    FROM accounts a LEFT JOIN balance_alerts b ON b.account_id = a.id
    WHERE a.id > $1 ORDER BY a.id LIMIT $2
), changed AS (
    INSERT INTO balance_alerts AS b (account_id, armed)
    SELECT id, available_nano >= threshold_nano FROM page WHERE (available_nano >= threshold_nano) <> armed
    ON CONFLICT (account_id) DO UPDATE SET armed = excluded.armed WHERE b.armed <> excluded.armed
    RETURNING account_id, armed
)
SELECT coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'account_id', id, 'available_nano', available_nano, 'threshold_nano', threshold_nano) ORDER BY id)
        FROM page JOIN changed ON changed.account_id = page.id WHERE NOT changed.armed
    ), '[]') AS crossed,
    CASE WHEN (SELECT count(*) FROM page) = $2 THEN (SELECT max(id) FROM page) ELSE '' END AS place
