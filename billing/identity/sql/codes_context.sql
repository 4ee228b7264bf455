-- What the last code for an address and purpose was about, where it is of the last day.
SELECT context FROM one_time_codes
WHERE email = $1 AND purpose = $2 AND created_at > now() - interval '1 day' ORDER BY created_at DESC, id DESC LIMIT 1
