WITH old AS (
    SELECT id FROM mail_outbox WHERE (sent_at IS NOT NULL OR failed_at IS NOT NULL)
        AND created_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM mail_outbox USING old WHERE mail_outbox.id = old.id RETURNING 1)
SELECT count(*) FROM gone
