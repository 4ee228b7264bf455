DELETE FROM debits_set_aside WHERE request_id = $1 AND debit = $2
