-- What belongs to the account has changed: whoever knows it at an older version reads it anew.
UPDATE accounts SET version = version + 1 WHERE id = $1 RETURNING version
