-- Add a link of digest $1 that is good for $2 seconds.
INSERT INTO operator_links (digest, expires_at) VALUES ($1, now() + $2 * interval '1 second') RETURNING expires_at
