-- The keys that sign, will sign or still verify; the last active one of those with a private part signs. Times are those of now, not of the transaction, which may have waited for its lock.
SELECT kid, private_pem, public_jwk, active_from <= clock_timestamp() AS active FROM signing_keys
WHERE retired_at IS NULL OR retired_at > clock_timestamp() ORDER BY active_from, kid
