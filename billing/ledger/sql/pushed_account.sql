-- Note that Redis and the gateways have versions $2 of accounts $1, in that order. A locked account is skipped: the relay pushes its
-- version again.
UPDATE accounts SET pushed_version = greatest(pushed_version, told.version)
FROM unnest($1::text[], $2::bigint[]) AS told (id, version)
WHERE accounts.id = told.id
    AND accounts.id IN (SELECT id FROM accounts WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
