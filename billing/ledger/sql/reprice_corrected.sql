-- What earlier corrections have charged more for requests $1, and the price of the last.
SELECT request_id, sum(CASE WHEN kind = 'adjustment' THEN amount_nano ELSE -amount_nano END) AS nano,
    count(*)::integer AS times, (array_agg(metadata->>'price_id' ORDER BY id DESC))[1] AS price_id
FROM transfers WHERE idempotency_scope = 'reprice' AND request_id = ANY ($1::text[])
GROUP BY request_id
