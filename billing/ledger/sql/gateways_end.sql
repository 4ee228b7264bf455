-- Note that the process of gateway $1 has ended, notify the other gateways, and delete those that ended long ago.
WITH forgotten AS (
    DELETE FROM gateways WHERE id <> $1 AND coalesce(ended_at, lease_until) < now() - interval '1 hour'
), ended AS (
    UPDATE gateways SET ended_at = now(), lease_until = now() WHERE id = $1 RETURNING id
)
SELECT pg_notify('metergate_gateway_ended', id) FROM ended
