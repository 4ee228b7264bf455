-- By hand: as if it had never been tried.
UPDATE webhook_deliveries SET attempts = 0, next_attempt_at = now(), delivered_at = NULL, parked_at = NULL, error = NULL,
    status = NULL
WHERE id = $1
