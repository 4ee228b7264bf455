SELECT o.state FROM payment_objects o
LEFT JOIN payment_objects last ON last.provider = o.provider AND last.kind = o.kind AND last.id = $4
WHERE o.provider = $1 AND o.kind = $2 AND o.account_id = $3 AND o.state IS NOT NULL
    AND ($4::text IS NULL OR (o.created_at, o.id) < (last.created_at, last.id))
ORDER BY o.created_at DESC, o.id DESC LIMIT $5
