-- A try failed, for the reason $2; with $3 for good: it is parked, and its text, which nobody needs any more, removed.
UPDATE mail_outbox SET error = $2, failed_at = CASE WHEN $3 THEN now() END, body = CASE WHEN $3 THEN '' ELSE body END
WHERE id = $1
