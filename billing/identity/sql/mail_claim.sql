-- Take the mail that is to be sent next. It is tried again after $1 seconds, twice as long for each try before, at most $2:
-- also where whoever took it dies.
UPDATE mail_outbox SET attempts = attempts + 1,
    next_attempt_at = now() + least($2, $1 * 2.0 ^ least(attempts, 30)) * interval '1 second'
WHERE id = (
    SELECT id FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL AND next_attempt_at <= now()
    ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, recipient, subject, body, created_at, attempts
