SELECT threshold_nano, armed FROM balance_alerts WHERE account_id = $1
