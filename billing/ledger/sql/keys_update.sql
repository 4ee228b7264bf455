-- The columns are those of the fields of billing.shapes.keys.KeyRules.
UPDATE api_keys SET name = $2, ({columns}) = ROW ({values}), version = version + 1
WHERE id = $1
RETURNING *
