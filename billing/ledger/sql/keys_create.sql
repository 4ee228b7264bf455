-- The columns are those of the fields of billing.shapes.keys.KeyRules.
INSERT INTO api_keys (id, account_id, user_id, name, prefix, secret_sha256, {columns})
SELECT $1, accounts.id, $3, $4, $5, $6, {values}
FROM accounts WHERE accounts.id = $2
RETURNING *
