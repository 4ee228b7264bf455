UPDATE local_events SET delivered_at = now() WHERE id = $1
