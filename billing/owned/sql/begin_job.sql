INSERT INTO background_jobs (
    object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + $10 * interval '1 second', $8, now() + $11 * interval '1 second')
ON CONFLICT DO NOTHING
