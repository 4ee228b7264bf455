-- Take the lease of job $1 for $3 seconds; no row when another gateway has it.
INSERT INTO job_leases (name, owner, until) VALUES ($1, $2, now() + $3 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until WHERE job_leases.until <= now()
RETURNING owner
