-- From now on no token of the user $1 is taken that was issued before.
UPDATE users SET tokens_valid_from = now() WHERE id = $1
