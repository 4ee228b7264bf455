-- Note that Redis and the gateways have versions $2 of keys $1, in that order. A locked key is skipped, as an account is.
UPDATE api_keys SET pushed_version = greatest(pushed_version, told.version)
FROM unnest($1::text[], $2::bigint[]) AS told (id, version)
WHERE api_keys.id = told.id
    AND api_keys.id IN (SELECT id FROM api_keys WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
