-- A key; or, by the name that billing.principals.SERVICE_KEY begins, what another service uses in place of one.
SELECT account_id, version, quotas, clock_timestamp() AS now FROM api_keys WHERE id = $1
UNION ALL
SELECT NULL, 1, '[]'::jsonb, clock_timestamp() WHERE starts_with($1, 'service:')
