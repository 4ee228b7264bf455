-- Open holds of a partition ($1) after id $2, at most $3.
SELECT id, payload FROM service_holds WHERE state = 'held' AND partition = $1 AND id > $2 ORDER BY id LIMIT $3
