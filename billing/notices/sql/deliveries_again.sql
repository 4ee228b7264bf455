-- Have a delivery tried again, by hand, as if it were new.
UPDATE webhook_deliveries SET attempts = 0, next_attempt_at = now(), delivered_at = NULL, parked_at = NULL, error = NULL,
    status = NULL
WHERE id = $1
