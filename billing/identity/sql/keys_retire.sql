-- Keys that another one has replaced sign nothing more: they verify for $1 seconds yet, and need their private part no more.
UPDATE signing_keys old SET retired_at = now() + $1 * interval '1 second', private_pem = ''
WHERE retired_at IS NULL AND EXISTS (
    SELECT FROM signing_keys new WHERE new.active_from <= clock_timestamp() AND (new.active_from, new.kid) > (old.active_from, old.kid))
