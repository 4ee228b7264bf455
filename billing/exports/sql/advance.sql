-- Move export $1 from number $2 to $3, which was accepted; no row where that is done.
UPDATE exports SET wseq = $3, claimed = NULL, failures = 0, next_at = now(), error = NULL,
    accepted_at = CASE WHEN $4 THEN now() ELSE accepted_at END
WHERE name = $1 AND wseq = $2
RETURNING name
