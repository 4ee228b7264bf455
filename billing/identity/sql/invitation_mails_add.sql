-- Note a mail; some that are old are forgotten with it.
WITH old AS (
    DELETE FROM invitation_mails WHERE ctid IN (
        SELECT ctid FROM invitation_mails WHERE sent_at < now() - interval '24 hours'
        ORDER BY sent_at LIMIT 100 FOR UPDATE SKIP LOCKED))
INSERT INTO invitation_mails (sent_by, email) VALUES ($1, $2)
