SELECT feature, units, period_start, used FROM feature_events WHERE account_id = $1 AND event_id = $2
