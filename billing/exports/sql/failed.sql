-- Note a failure of export $1, which is tried again after $2 seconds.
UPDATE exports SET failures = failures + 1, next_at = now() + $2 * interval '1 second', error = $3 WHERE name = $1
