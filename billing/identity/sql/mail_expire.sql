-- Park mails that have waited for $1 seconds: what they say no longer holds.
WITH old AS (
    SELECT id FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
        AND created_at < now() - $1 * interval '1 second' LIMIT $2 FOR UPDATE SKIP LOCKED
), parked AS (
    UPDATE mail_outbox SET failed_at = now(), body = '', error = coalesce(error, 'nothing sends mails: SMTP_HOST is not set')
    FROM old WHERE mail_outbox.id = old.id RETURNING 1
)
SELECT count(*) FROM parked
