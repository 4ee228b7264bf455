-- Set a threshold. A changed threshold is armed again by the next look at a balance above it.
INSERT INTO balance_alerts (account_id, threshold_nano) SELECT id, $2 FROM accounts WHERE id = $1
ON CONFLICT (account_id) DO UPDATE SET threshold_nano = excluded.threshold_nano, armed = false
RETURNING account_id
