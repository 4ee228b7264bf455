SELECT feature, used FROM feature_units WHERE account_id = $1 AND period_start = $2
