-- Those of the objects $2 that are the account's ($1), the oldest first.
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM provider_objects WHERE object_id = ANY ($2::text[]) AND account_id = $1 ORDER BY created_at
