-- Payments that were paid, newest first, from $3 on and before $4 (null: any time), behind the one whose id is $2.
SELECT p.id, p.provider, p.account_id, p.created_at, p.order_id, o.kind AS order_kind, o.plan,
    p.state ->> 'invoice_id' AS invoice_id, p.state ->> 'currency' AS currency, p.state ->> 'receipt_url' AS receipt_url,
    (p.state ->> 'total_cents')::bigint AS total_cents, given.refunded_cents, given.disputed_cents
FROM payment_objects p
LEFT JOIN orders o ON o.id = p.order_id
LEFT JOIN payment_objects last ON last.kind = 'payment' AND last.id = $2
CROSS JOIN LATERAL (
    SELECT
        (SELECT coalesce(sum((r ->> 'amount_cents')::bigint), 0)::bigint
         FROM jsonb_array_elements(p.state -> 'refunds') AS r
         WHERE r ->> 'status' NOT IN ('failed', 'canceled')) AS refunded_cents,
        (SELECT coalesce(-sum((m ->> 'amount_cents')::bigint), 0)::bigint
         FROM jsonb_array_elements(p.state -> 'disputes') AS d, jsonb_array_elements(d -> 'movements') AS m)
            AS disputed_cents
) AS given
WHERE p.kind = 'payment' AND p.state ->> 'status' = 'paid'
    AND ($1::text IS NULL OR p.account_id = $1)
    AND ($2::text IS NULL OR (p.created_at, p.id) < (last.created_at, last.id))
    AND ($3::timestamptz IS NULL OR p.created_at >= $3)
    AND ($4::timestamptz IS NULL OR p.created_at < $4)
ORDER BY p.created_at DESC, p.id DESC LIMIT $5
