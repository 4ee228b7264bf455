-- Redis and the gateways were told of version $2. An account that is locked is left to the relay, which tells it again.
UPDATE accounts SET pushed_version = greatest(pushed_version, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
