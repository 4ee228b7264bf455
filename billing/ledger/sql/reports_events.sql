SELECT * FROM usage_events
WHERE account_id = $1
    AND admitted_at >= coalesce($2::timestamptz, '-infinity')
    AND admitted_at < coalesce($3::timestamptz, 'infinity')
    AND admitted_at <= coalesce($4::timestamptz, 'infinity')
    AND ($4::timestamptz IS NULL OR (admitted_at, request_id) < ($4, $5::text))
    AND ($6::text IS NULL OR key_id = $6)
    AND ($7::text IS NULL OR model = $7)
ORDER BY admitted_at DESC, request_id DESC
LIMIT $8
