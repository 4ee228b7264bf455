UPDATE gateways SET ended_at = now(), lease_until = now() WHERE ended_at IS NULL
