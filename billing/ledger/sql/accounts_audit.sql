INSERT INTO audit_log (actor, action, subject, before, after, address, request_id, account_id, user_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
