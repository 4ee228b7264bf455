SELECT id, account_id, event_id, service, payload, state, created_at, expires_at, ended_at, end_event_id, end_digest, end_answer
FROM service_holds WHERE id = ANY ($1::text[])
