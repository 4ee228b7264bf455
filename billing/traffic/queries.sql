-- Statements of `billing.traffic`, each under its name. `billing.database.connection.queries` reads them.

-- name: provider_changed
-- Note a change of a circuit, unless another process has noted it: of states in a row that are the same the first one stays.
INSERT INTO provider_changes (provider, target, at, state, reason)
SELECT $1, $2, to_timestamp($3::float8), $4, $5
WHERE (SELECT state FROM provider_changes WHERE provider = $1 AND target = $2 ORDER BY at DESC, id DESC LIMIT 1)
    IS DISTINCT FROM $4

-- name: provider_changes_forget
-- Delete changes of circuits of more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM provider_changes WHERE id = ANY (ARRAY(
        SELECT id FROM provider_changes WHERE at < now() - $1 * interval '1 day' LIMIT $2))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: provider_changes_last
-- Changes of circuits, newest first, of provider $1 or of all.
SELECT provider, target, at, state, reason FROM provider_changes
WHERE $1::text IS NULL OR provider = $1
ORDER BY at DESC, id DESC LIMIT $2

-- name: provider_changes_turn
-- One process notes changes at a time, so that each sees what the others have noted.
SELECT pg_advisory_xact_lock(hashtext('provider_changes'))

-- name: provider_failed
INSERT INTO provider_failures AS last (provider, at, reason) VALUES ($1, to_timestamp($2::float8), $3)
ON CONFLICT (provider) DO UPDATE SET at = excluded.at, reason = excluded.reason WHERE excluded.at > last.at

-- name: provider_failures_all
SELECT provider, at, reason FROM provider_failures

-- name: traffic_add
-- Add counts of a process, as a JSON array ($1), to these five minutes and to this hour. Rows are written in the order of their
-- key, so that processes that add at the same time wait for one another.
INSERT INTO traffic AS t (granularity, bucket, what, name, detail, count, buckets)
SELECT g.code, date_bin(g.every, now(), timestamptz 'epoch'), c.what, c.name, c.detail, c.number, c.buckets
FROM jsonb_to_recordset($1::text::jsonb) AS c (what text, name text, detail text, number bigint, buckets bigint[])
    CROSS JOIN (VALUES (0, interval '5 minutes'), (1, interval '1 hour')) AS g (code, every)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (granularity, bucket, what, name, detail) DO UPDATE SET
    count = t.count + excluded.count,
    buckets = CASE WHEN t.buckets IS NULL THEN excluded.buckets ELSE ARRAY(
        SELECT coalesce(had, 0) + coalesce(has, 0)
        FROM unnest(t.buckets, excluded.buckets) WITH ORDINALITY AS b (had, has, place) ORDER BY place) END

-- name: traffic_forget
-- Delete counts by five minutes that are older than two days, and those by hour of more than $1 days ago; at most $2 of each.
WITH gone AS (
    DELETE FROM traffic WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM traffic WHERE granularity = 0 AND bucket < now() - interval '2 days' LIMIT $2) || ARRAY(
        SELECT ctid FROM traffic WHERE granularity = 1 AND bucket < now() - $1 * interval '1 day' LIMIT $2))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: traffic_providers
SELECT name, what, detail, count, buckets FROM traffic
WHERE granularity = $1 AND bucket >= $2 AND bucket < $3 AND what <> 'refused'

-- name: traffic_refusals
SELECT name, sum(count) AS count FROM traffic
WHERE granularity = 1 AND bucket >= $1 AND bucket < $2 AND what = 'refused'
GROUP BY 1 ORDER BY 2 DESC, 1

-- name: traffic_steps
-- What was refused in each hour or day ($3) from $1 on and before $2; and what has failed: refusals with one of these codes ($4),
-- and answers with a status from 500 on that were passed on.
SELECT date_trunc($3, bucket, 'UTC') AS start,
    coalesce(sum(count) FILTER (WHERE what = 'refused' AND name <> ALL ($4::text[])), 0) AS refused,
    coalesce(sum(count) FILTER (WHERE name = ANY ($4) OR what = 'passed_on'), 0) AS errors
FROM traffic
WHERE granularity = 1 AND bucket >= $1 AND bucket < $2 AND (what = 'refused' OR what = 'passed_on' AND detail >= '500')
GROUP BY 1
