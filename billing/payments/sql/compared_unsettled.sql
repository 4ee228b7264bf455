-- Payments whose refunds or disputes are not over, of whatever age, and those that orders were credited by since $2.
SELECT id FROM payment_objects
WHERE provider = $1 AND kind = 'payment' AND (state @> '{"disputes": [{"status": "open"}]}'
    OR state @> '{"disputes": [{"status": "warning"}]}' OR state @> '{"refunds": [{"status": "pending"}]}')
UNION
SELECT payment_id FROM orders WHERE provider = $1 AND credited_at >= $2 AND payment_id IS NOT NULL
