-- Have events looked into now whose gateway has died, or has lost its lease.
UPDATE payment_events SET next_attempt_at = now(), claimed_by = NULL
WHERE state = 'waiting' AND claimed_by IS NOT NULL
    AND NOT EXISTS (SELECT FROM gateways WHERE id = claimed_by AND ended_at IS NULL AND lease_until > now())
