-- The keys that sign, will sign or still verify; the last active one of those with a private part signs.
SELECT kid, private_pem, public_jwk, active_from <= now() AS active FROM signing_keys
WHERE retired_at IS NULL OR retired_at > now() ORDER BY active_from, kid
