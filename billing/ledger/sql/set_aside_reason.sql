UPDATE debits_set_aside SET reason = $2 WHERE request_id = $1
