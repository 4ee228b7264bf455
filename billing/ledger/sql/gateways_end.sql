DELETE FROM gateways WHERE id = $1 OR lease_until < now() - interval '1 day'
