-- A try failed, for the reason $3; with $4 for good: it waits for an operator.
UPDATE payment_events SET error = $3, claimed_by = NULL, state = CASE WHEN $4 THEN 'parked' ELSE state END,
    ended_at = CASE WHEN $4 THEN now() END
WHERE provider = $1 AND id = $2 AND state = 'waiting'
