-- End the codes of a user.
UPDATE one_time_codes SET used_at = now() WHERE user_id = $1 AND used_at IS NULL
