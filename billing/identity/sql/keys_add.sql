-- Add the key $1: the first one signs now; one beside others signs $4 seconds after the last of them began to, and not
-- before it has been published for as long, or for a day.
INSERT INTO signing_keys (kid, private_pem, public_jwk, active_from)
SELECT $1, $2, $3, CASE WHEN bool_or(active_from <= clock_timestamp())
    THEN greatest(now() + least($4, 86400) * interval '1 second', max(active_from) + $4 * interval '1 second')
    ELSE now() END
FROM signing_keys WHERE retired_at IS NULL
