INSERT INTO audit_log (actor, action, subject, before, after) VALUES ($1, $2, $3, $4, $5)
