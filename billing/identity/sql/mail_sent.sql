UPDATE mail_outbox SET sent_at = now(), body = '', error = NULL WHERE id = $1
