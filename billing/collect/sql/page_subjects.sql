-- Subjects before the number $1, the newest first; with $3 those alone that have no account. Bytes as of the hours.
SELECT s.id, s.uuid, s.email, s.account_id, s.created_at,
    coalesce((
        SELECT sum(h.up_bytes::numeric + h.down_bytes) FROM collected_series AS e JOIN collected_hours AS h ON h.series = e.id
        WHERE e.subject = s.id
    ), 0) AS bytes
FROM collected_subjects AS s
WHERE s.id < $1 AND (NOT $3::boolean OR s.account_id IS NULL)
ORDER BY s.id DESC LIMIT $2
