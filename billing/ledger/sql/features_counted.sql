UPDATE feature_events SET used = $3 WHERE account_id = $1 AND event_id = $2
