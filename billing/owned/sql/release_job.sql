-- The gateway ($3) polls a job no more; where the hold was its own it settles nothing for it any more.
UPDATE background_jobs SET lease_until = now(), released = released OR gateway_id = $3
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL
