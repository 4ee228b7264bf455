DELETE FROM gateways
