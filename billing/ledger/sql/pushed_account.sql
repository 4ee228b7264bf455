-- Note that Redis and the gateways have version $2. A locked account is skipped: the relay pushes the version again.
UPDATE accounts SET pushed_version = greatest(pushed_version, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
