SELECT usage_events.*, prices.said AS price_said
FROM usage_events LEFT JOIN prices ON prices.id = usage_events.price_id
WHERE request_id = $1 AND ($2::text IS NULL OR account_id = $2)
