INSERT INTO feature_events (account_id, event_id, feature, units, period_start, used) VALUES ($1, $2, $3, $4, $5, 0)
ON CONFLICT (account_id, event_id) DO NOTHING RETURNING event_id
