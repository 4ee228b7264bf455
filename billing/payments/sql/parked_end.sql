UPDATE payments_parked SET state = $2, transfer_id = $3, note = $4, ended_at = now() WHERE id = $1
RETURNING *
