-- Gateways that have not ended, and the layout of their state in Redis; whether each lives is for whoever has watched their leases.
SELECT id, lease_until, layout FROM gateways WHERE ended_at IS NULL
