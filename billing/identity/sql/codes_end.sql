-- End the codes of a user and of their address.
UPDATE one_time_codes SET used_at = now() WHERE (user_id = $1 OR email = $2) AND used_at IS NULL
