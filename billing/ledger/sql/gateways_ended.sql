SELECT id FROM gateways WHERE ended_at IS NOT NULL
