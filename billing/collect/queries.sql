-- Statements of `billing.collect`, each under its name. `billing.database.connection.queries` reads them.

-- name: add_run
-- A run is over; runs but for the last $15 are forgotten.
WITH added AS (
    INSERT INTO collect_runs (job, status, started_at, finished_at, sources, failed_sources, processed_samples,
        written_minutes, replayed_minutes, conflicts, set_aside, debits, revision, error)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id
)
DELETE FROM collect_runs WHERE id <= (SELECT id FROM added) - $15

-- name: add_series
-- $1 nodes, $2 uuids, $3 inbound tags.
INSERT INTO collected_series (node, subject, inbound_tag)
SELECT DISTINCT g.node, u.id, g.tag FROM unnest($1::bigint[], $2::text[], $3::text[]) AS g (node, uuid, tag)
CROSS JOIN LATERAL (SELECT id FROM collected_subjects WHERE uuid = g.uuid LIMIT 1) AS u
ORDER BY 1, 2, 3
ON CONFLICT (node, subject, inbound_tag) DO NOTHING

-- name: add_subjects
-- $1 uuids, $2 e-mail addresses: of a uuid that has several, the first one.
INSERT INTO collected_subjects (uuid, email)
SELECT DISTINCT ON (uuid) uuid, email FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS g (uuid, email, place)
ORDER BY uuid, place
ON CONFLICT (uuid) DO NOTHING

-- name: assign_subject
-- Subject $1 is of account $2 from here on. Of one that had no account, all that was counted so far is to be charged to it. One that
-- had another is moved from the next minute on, by the clock of a gateway ($3) and by this one, and from after its newest point: no
-- minute that is known changes its account.
WITH before AS MATERIALIZED (
    SELECT id, account_id FROM collected_subjects WHERE id = $1
), series AS (
    SELECT s.id, n.region FROM collected_series AS s JOIN collected_nodes AS n ON n.id = s.node WHERE s.subject = $1
), newest AS (
    SELECT max(p.at) AS at FROM series AS s CROSS JOIN LATERAL (
        SELECT at FROM collected_points WHERE series = s.id ORDER BY at DESC LIMIT 1
    ) AS p
), moved AS (
    INSERT INTO collected_owners (subject, until, account_id)
    SELECT b.id, greatest(
        date_trunc('minute', greatest(least($3::timestamptz, now()), newest.at), 'UTC') + interval '1 minute',
        (SELECT max(until) FROM collected_owners WHERE subject = $1)
    ), b.account_id
    FROM before AS b CROSS JOIN newest WHERE b.account_id IS NOT NULL
    ON CONFLICT (subject, until) DO NOTHING  -- moved again before a minute was over: nothing was its last account's
), assigned AS (
    UPDATE collected_subjects SET account_id = $2, parked = false, assigned_at = now() WHERE id = $1
)
INSERT INTO collected_growth (subject, region, minute, bytes)
SELECT b.id, s.region, h.hour, sum(h.up_bytes::numeric + h.down_bytes)
FROM before AS b CROSS JOIN series AS s JOIN collected_hours AS h ON h.series = s.id
WHERE b.account_id IS NULL
GROUP BY 1, 2, 3

-- name: due_accounts
-- Accounts after $1 that something is due of, at most $2.
SELECT DISTINCT account_id FROM collected_due WHERE account_id > $1 ORDER BY account_id LIMIT $2

-- name: fail_source
-- What is wrong with source $1; a window that can't be gone on with ($3) begins anew.
UPDATE collect_sources SET error = $2, version = version + $3::boolean::integer,
    cursor = CASE WHEN NOT $3::boolean THEN cursor END, since = CASE WHEN NOT $3::boolean THEN since END,
    until = CASE WHEN NOT $3::boolean THEN until END
WHERE source = $1

-- name: find_subjects
-- Those whose uuid is $1, or whose e-mail address is; first those that are not of account $3, at most $2.
SELECT id, account_id FROM collected_subjects
WHERE uuid = $1 OR (email <> '' AND lower(email) = lower($1))
ORDER BY account_id IS NOT DISTINCT FROM $3::text, id LIMIT $2

-- name: fold_growth
-- At most $1 rows of growth and $2 pages of it become due, by the account whose the subject was at that time, region and hour; how
-- many of both.
WITH taken AS (
    DELETE FROM collected_growth WHERE ctid = ANY (ARRAY(SELECT ctid FROM collected_growth LIMIT $1))
    RETURNING subject, region, minute, bytes
), pages AS (
    DELETE FROM collected_grown WHERE ctid = ANY (ARRAY(SELECT ctid FROM collected_grown LIMIT $2))
    RETURNING region, minute, subjects, bytes
), due AS (
    INSERT INTO collected_due AS d (account_id, region, hour, at, bytes)
    SELECT coalesce(o.account_id, u.account_id), t.region, date_trunc('hour', t.minute, 'UTC'), max(t.minute), sum(t.bytes)
    FROM (
        SELECT subject, region, minute, bytes FROM taken
        UNION ALL
        SELECT subject, region, minute, sum(g.bytes)
        FROM pages AS p CROSS JOIN LATERAL unnest(p.subjects, p.bytes) AS g (subject, bytes)
        GROUP BY 1, 2, 3
    ) AS t JOIN collected_subjects AS u ON u.id = t.subject
    LEFT JOIN LATERAL (
        SELECT account_id FROM collected_owners WHERE subject = t.subject AND until > t.minute ORDER BY until LIMIT 1
    ) AS o ON true
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (account_id, region, hour) DO UPDATE
    SET bytes = d.bytes + excluded.bytes, at = greatest(d.at, excluded.at)
)
SELECT (SELECT count(*) FROM taken) + (SELECT count(*) FROM pages)

-- name: forget_points
-- At most $3 points that are older than $2 days, by the clock of a gateway ($1) and by this one, but for the last of them of each
-- series: a late point grows from that.
DELETE FROM collected_points AS p
WHERE ctid = ANY (ARRAY(
    SELECT o.ctid FROM collected_points AS o
    WHERE o.at < least($1::timestamptz, now()) - $2 * interval '1 day' AND EXISTS (
        SELECT FROM collected_points AS l
        WHERE l.series = o.series AND l.at > o.at AND l.at < least($1::timestamptz, now()) - $2 * interval '1 day'
    )
    LIMIT $3
))

-- name: get_checkpoint
-- How far source $1 was read; a new one gets its row.
WITH known AS (
    SELECT version, watermark, since, until, cursor, newest FROM collect_sources WHERE source = $1
), made AS (
    INSERT INTO collect_sources (source) SELECT $1 WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (source) DO UPDATE SET source = excluded.source
    RETURNING version, watermark, since, until, cursor, newest
)
SELECT * FROM known UNION ALL SELECT * FROM made

-- name: meet_account
-- Account $1, with $2 bytes that it has free; no row where it was met before.
INSERT INTO collected_accounts (account_id, included_bytes) VALUES ($1, $2) ON CONFLICT (account_id) DO NOTHING
RETURNING account_id

-- name: move_checkpoint
-- No row where another collector has moved it since version $2. The lock $9 is shared by all who write points.
UPDATE collect_sources
SET version = version + 1, watermark = $3, since = $4, until = $5, cursor = $6, newest = $7, collected_at = $8, error = ''
FROM (SELECT pg_advisory_xact_lock_shared($9)) AS locked
WHERE source = $1 AND version = $2
RETURNING version

-- name: name_revision
-- The number of revision $1; a new one gets one, and no row is locked for one that has it.
WITH known AS (SELECT id FROM collect_revisions WHERE name = $1), made AS (
    INSERT INTO collect_revisions (name) SELECT $1 WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id
)
SELECT id FROM known UNION ALL SELECT id FROM made

-- name: note_nodes
-- Nodes of source $1 ($2 node, $3 env, $4 first snapshot of this page), in region $5, by the rule $6 for first points. Returns
-- what each one's first snapshot was before, null for a new one. A node that is as it was is not written.
WITH given AS (
    SELECT node, env, first_at FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS g (node, env, first_at)
), before AS (
    SELECT n.* FROM collected_nodes AS n JOIN given USING (node) WHERE n.source = $1
), noted AS (
    INSERT INTO collected_nodes AS n (source, node, env, region, first_at, first_point)
    SELECT $1, g.node, g.env, $5, g.first_at, $6 FROM given AS g LEFT JOIN before AS b USING (node)
    WHERE b.id IS NULL OR (b.env, b.region) <> (g.env, $5) OR g.first_at < b.first_at
    ORDER BY g.node
    ON CONFLICT (source, node) DO UPDATE
    SET env = excluded.env, region = excluded.region, first_at = least(n.first_at, excluded.first_at)
    RETURNING id, node, first_at, first_point
)
SELECT coalesce(n.id, b.id) AS id, node, coalesce(n.first_at, b.first_at) AS first_at,
    coalesce(n.first_point, b.first_point) AS first_point, b.first_at AS first_before
FROM given LEFT JOIN before AS b USING (node) LEFT JOIN noted AS n USING (node)

-- name: page_runs
SELECT * FROM collect_runs WHERE id < $1 ORDER BY id DESC LIMIT $2

-- name: page_subjects
-- Subjects before the number $1, the newest first; with $3 those alone that have no account. Bytes as of the hours.
SELECT s.id, s.uuid, s.email, s.account_id, s.created_at,
    coalesce((
        SELECT sum(h.up_bytes::numeric + h.down_bytes) FROM collected_series AS e JOIN collected_hours AS h ON h.series = e.id
        WHERE e.subject = s.id
    ), 0) AS bytes
FROM collected_subjects AS s
WHERE s.id < $1 AND (NOT $3::boolean OR s.account_id IS NULL)
ORDER BY s.id DESC LIMIT $2

-- name: park_subjects
UPDATE collected_subjects SET parked = true WHERE id = ANY ($1::bigint[]) AND account_id IS NULL

-- name: read_charges
-- What the accounts $1 were charged so far, and their bytes by price; no price where there are none.
SELECT a.account_id, a.included_bytes, a.charged_nano, c.price, c.rate_scaled, c.bytes
FROM collected_accounts AS a LEFT JOIN collected_charges AS c USING (account_id)
WHERE a.account_id = ANY ($1::text[])

-- name: read_traffic
-- Bytes of account $1 in each span between the bounds $2, from 0 on, by where they were counted: whole hours, and the points of hours
-- that bounds cut ($3) or moves of subjects between accounts do; hours before $4 have no points any more, and count where they begin.
WITH owned AS (
    SELECT u.id, coalesce((SELECT max(o.until) FROM collected_owners AS o WHERE o.subject = u.id), '-infinity') AS since,
        'infinity'::timestamptz AS until
    FROM collected_subjects AS u WHERE u.account_id = $1
    UNION ALL
    SELECT o.subject, coalesce((
        SELECT max(e.until) FROM collected_owners AS e WHERE e.subject = o.subject AND e.until < o.until
    ), '-infinity'), o.until
    FROM collected_owners AS o WHERE o.account_id = $1
), series AS MATERIALIZED (
    SELECT s.id, s.inbound_tag, n.node, n.region, u.since, u.until, ARRAY(
        SELECT DISTINCT hour FROM unnest(
            $3::timestamptz[] || date_trunc('hour', u.since, 'UTC') || date_trunc('hour', u.until, 'UTC')
        ) AS c (hour) WHERE hour >= $4
    ) AS cut
    FROM owned AS u JOIN collected_series AS s ON s.subject = u.id JOIN collected_nodes AS n ON n.id = s.node
), counted AS (
    SELECT s.inbound_tag, s.node, s.region, h.hour AS at, h.up_bytes AS up, h.down_bytes AS down
    FROM series AS s JOIN collected_hours AS h ON h.series = s.id
    WHERE h.hour >= s.since AND h.hour < s.until AND h.hour <> ALL (s.cut)
    UNION ALL
    SELECT s.inbound_tag, s.node, s.region, p.at, p.up_growth, p.down_growth
    FROM series AS s CROSS JOIN LATERAL unnest(s.cut) AS c (hour)
    JOIN collected_points AS p ON p.series = s.id AND p.at >= c.hour AND p.at < c.hour + interval '1 hour'
    WHERE p.at >= s.since AND p.at < s.until
)
SELECT width_bucket(c.at, $2::timestamptz[]) - 1 AS span, c.region, c.node, c.inbound_tag, sum(c.up) AS up,
    sum(c.down) AS down
FROM counted AS c
WHERE c.at >= ($2::timestamptz[])[1] AND c.at < ($2::timestamptz[])[array_length($2, 1)]
GROUP BY 1, 2, 3, 4
HAVING sum(c.up) <> 0 OR sum(c.down) <> 0

-- name: standing
-- How far the sources $1 are read.
SELECT s.source, s.watermark, s.collected_at, s.error FROM collect_sources AS s WHERE s.source = ANY ($1::text[])

-- name: take_due
-- What is due of the accounts $1, no longer due from here on.
DELETE FROM collected_due WHERE account_id = ANY ($1::text[]) RETURNING account_id, region, hour, at, bytes

-- name: waiting_subjects
-- At most $1 subjects without an account that are new, or that somebody has been found for since: the account of another
-- subject of the same e-mail address, or the personal one of whoever has proven to have that address.
SELECT s.id, s.uuid, s.email, coalesce(same.account_id, own.account_id) AS account_id
FROM collected_subjects AS s
LEFT JOIN LATERAL (
    SELECT o.account_id FROM collected_subjects AS o
    WHERE s.email <> '' AND lower(o.email) = lower(s.email) AND o.account_id IS NOT NULL ORDER BY o.id LIMIT 1
) AS same ON true
LEFT JOIN LATERAL (
    SELECT g.account_id FROM users AS u JOIN memberships AS m ON m.user_id = u.id AND m.role = 'owner'
    JOIN organizations AS g ON g.id = m.org_id AND g.personal
    WHERE s.email <> '' AND u.email = lower(s.email) AND u.email_verified_at IS NOT NULL ORDER BY g.id LIMIT 1
) AS own ON true
WHERE s.account_id IS NULL AND (NOT s.parked OR same.account_id IS NOT NULL OR own.account_id IS NOT NULL)
ORDER BY s.id LIMIT $1

-- name: write_charges
-- $1 accounts and $2 what they were charged in all; bytes by price: $3 account, $4 price, $5 rate, $6 bytes.
WITH charged AS (
    UPDATE collected_accounts AS a SET charged_nano = g.charged_nano
    FROM unnest($1::text[], $2::numeric[]) AS g (account_id, charged_nano) WHERE a.account_id = g.account_id
)
INSERT INTO collected_charges AS c (account_id, price, rate_scaled, bytes)
SELECT * FROM unnest($3::text[], $4::text[], $5::numeric[], $6::numeric[])
ON CONFLICT (account_id, price) DO UPDATE SET bytes = excluded.bytes
