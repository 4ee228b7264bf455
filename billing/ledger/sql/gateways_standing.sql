-- Gateways that have not ended; whether each lives is for whoever has watched their leases.
SELECT id, lease_until FROM gateways WHERE ended_at IS NULL
