SELECT id FROM gateways WHERE lease_until > now()
