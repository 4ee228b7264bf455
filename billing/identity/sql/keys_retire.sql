-- Retire keys that another one has replaced: they verify for $1 more seconds, and their private part is removed.
UPDATE signing_keys old SET retired_at = now() + $1 * interval '1 second', private_pem = ''
WHERE retired_at IS NULL AND EXISTS (
    SELECT FROM signing_keys new WHERE new.active_from <= clock_timestamp() AND (new.active_from, new.kid) > (old.active_from, old.kid))
