UPDATE background_jobs SET lease_until = now() + $4 * interval '1 second'
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL
RETURNING true
