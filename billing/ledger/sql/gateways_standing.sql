-- Return the gateways that have not ended, and the layout of their state in Redis. Whether one lives is judged by its lease.
SELECT id, lease_until, layout FROM gateways WHERE ended_at IS NULL
