-- Raise the account's version: gateways that know an older one read the account again.
UPDATE accounts SET version = version + 1 WHERE id = $1 RETURNING version
