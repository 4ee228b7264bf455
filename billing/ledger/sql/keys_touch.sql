WITH used AS (
    SELECT * FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)
), locked AS (
    SELECT api_keys.id FROM api_keys JOIN used USING (id) ORDER BY api_keys.id FOR NO KEY UPDATE OF api_keys
)
UPDATE api_keys SET last_used_at = greatest(api_keys.last_used_at, used.at)
FROM used JOIN locked USING (id)
WHERE api_keys.id = used.id
