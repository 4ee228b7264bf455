-- Count a try before it is looked at, so that many at once are counted, too. From the $2th that did not succeed on, the
-- next has to wait, $3 seconds and twice as long each time, $4 at most; a day without one forgets them. No row: it waits.
INSERT INTO sign_in_tries AS t (subject, failures) VALUES ($1, 1)
ON CONFLICT (subject) DO UPDATE SET
    failures = CASE WHEN t.updated_at < now() - interval '1 day' THEN 1 ELSE least(t.failures + 1, 1000000) END,
    blocked_until = CASE
        WHEN t.updated_at < now() - interval '1 day' OR t.failures + 1 < $2 THEN '-infinity'
        ELSE now() + least($4, $3 * 2.0 ^ least(t.failures + 1 - $2, 30)) * interval '1 second'
    END,
    updated_at = now()
WHERE t.blocked_until <= now()
RETURNING failures
