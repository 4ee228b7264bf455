-- Write a delivery of each notice for each endpoint that gets it and, with $2, for NOTIFICATION_WEBHOOK.
WITH these AS (
    UPDATE notices SET handed_out_at = now() WHERE id = ANY($1::text[]) RETURNING id, account_id, type
), written AS (
    INSERT INTO webhook_deliveries (notice_id, endpoint_id)
    SELECT these.id, e.id FROM these
    JOIN webhook_endpoints e ON (e.account_id = these.account_id OR e.account_id IS NULL)
        AND e.disabled_at IS NULL AND (e.types IS NULL OR these.type = ANY(e.types))
    UNION ALL
    SELECT these.id, NULL FROM these WHERE $2
    RETURNING 1
)
SELECT count(*) FROM written
