-- What a code for an address and purpose was about: the one of this id ($3), else the last; of the last day alone.
SELECT context FROM one_time_codes
WHERE email = $1 AND purpose = $2 AND ($3::text IS NULL OR id = $3) AND created_at > now() - interval '1 day'
ORDER BY created_at DESC, id DESC LIMIT 1
