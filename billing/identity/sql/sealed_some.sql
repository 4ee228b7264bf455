-- Secrets that are sealed, and what each is: the keys that sign, where these are used ($1), and the first and the last of
-- the authenticator apps.
SELECT private_pem AS stored, 'signing key ' || kid AS what FROM signing_keys
WHERE $1::boolean AND private_pem LIKE 'sealed:%' AND (retired_at IS NULL OR retired_at > clock_timestamp())
UNION ALL (SELECT totp_secret, 'totp ' || id FROM users WHERE totp_secret LIKE 'sealed:%' ORDER BY id LIMIT 1)
UNION ALL (SELECT totp_secret, 'totp ' || id FROM users WHERE totp_secret LIKE 'sealed:%' ORDER BY id DESC LIMIT 1)
