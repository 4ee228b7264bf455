-- Release a job from the gateway ($3): another may poll it, and settle it by a hold of its own.
UPDATE background_jobs SET lease_until = now(), released = released OR gateway_id = $3
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL
