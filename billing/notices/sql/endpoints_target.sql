SELECT url, secret, CASE WHEN old_secret_until > now() THEN old_secret END AS old_secret, disabled_at
FROM webhook_endpoints WHERE id = $1
