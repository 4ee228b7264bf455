-- Events of a provider and a model, that which served or one of several ($3: a JSON list that by_model contains), in the
-- order of accounts, of which each partition has an index; after ($7, $8, $9).
SELECT * FROM usage_events
WHERE provider = $1 AND (provider_model = $2 OR by_model @> $3::jsonb)
    AND admitted_at >= $4 AND admitted_at < $5
    AND ($6::text IS NULL OR account_id = $6)
    AND (account_id, admitted_at, request_id) > ($7, $8::timestamptz, $9)
ORDER BY account_id, admitted_at, request_id
LIMIT $10
