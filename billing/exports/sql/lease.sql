-- Take or keep the lease of export $1 for $3 seconds; no row where another gateway has it.
UPDATE exports SET owner = $2, lease_until = now() + $3 * interval '1 second'
WHERE name = $1 AND (owner IS NOT DISTINCT FROM $2 OR lease_until <= now())
RETURNING wseq, claimed, failures, greatest(0, extract(epoch FROM next_at - now()))::float AS wait_s
