-- Statements of `billing.ledger`, each under its name. `billing.database.connection.queries` reads them.

-- name: accounts_dry
-- Accounts whose credit lasts at most $2 days, at what they spent in a day since $1 (midnight UTC of another day), or since they
-- were made, where that is later and not today; $3 of them.
SELECT id, name, available_nano, a_day_nano, EXISTS (
    SELECT FROM auto_recharges AS r WHERE r.account_id = used.id AND r.enabled) AS recharges
FROM (
    SELECT a.id, a.name, a.balance_nano + a.credit_limit_nano AS available_nano,
        greatest(1, (u.charged_nano * 24 / (extract(epoch FROM
            now() - least(greatest($1::timestamptz, a.created_at), now() - interval '1 day')) / 3600))::bigint) AS a_day_nano
    FROM (
        SELECT account_id, sum(charged_nano) AS charged_nano FROM usage_by_account
        WHERE granularity = 2 AND bucket >= $1 GROUP BY 1 HAVING sum(charged_nano) > 0
    ) AS u JOIN accounts AS a ON a.id = u.account_id
    WHERE a.status IN ('active', 'past_due')
) AS used
WHERE available_nano < a_day_nano::numeric * $2
ORDER BY available_nano::numeric / a_day_nano, id
LIMIT $3

-- name: catalogue_plans
SELECT id, digest FROM plans

-- name: catalogue_plans_accounts
-- Accounts on a plan that has changed; with $2 also those on a plan that is not among $3, to whom the default applies.
WITH touched AS (
    SELECT id FROM accounts
    WHERE plan = ANY ($1::text[]) OR ($2::boolean AND NOT plan = ANY ($3::text[]))
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE accounts SET version = version + 1 FROM touched WHERE accounts.id = touched.id
RETURNING accounts.id

-- name: catalogue_plans_forget
DELETE FROM plans WHERE NOT id = ANY ($1::text[])

-- name: catalogue_plans_store
INSERT INTO plans (id, digest) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest

-- name: catalogue_prices
INSERT INTO prices (id, provider, model, effective_from, said)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::date[], $5::text[])
ON CONFLICT (id) DO NOTHING

-- name: catalogue_prices_known
SELECT id FROM prices WHERE id = ANY($1::text[])

-- name: catalogue_prices_left
-- What the ledger keeps and a file does not say: the ids of the file are given, the rows that came last come first.
SELECT id, said, created_at FROM prices
WHERE id <> ALL($1::text[])
ORDER BY created_at DESC, provider, model, effective_from DESC, id LIMIT $2

-- name: catalogue_prices_of
SELECT id, said, created_at FROM prices
WHERE provider = $1 AND model = $2
ORDER BY effective_from DESC, created_at DESC, id LIMIT $3

-- name: catalogue_revision_newest
SELECT revision, version, said FROM plan_revisions ORDER BY revision DESC LIMIT 1

-- name: catalogue_revision_of
SELECT revision FROM plan_revisions WHERE digest = $1

-- name: catalogue_revision_store
-- Store a content under the newest number; forced, a content that was in force before gets another number.
INSERT INTO plan_revisions (revision, digest, version, said)
SELECT coalesce(max(revision), 0) + 1, $1, $2, $3 FROM plan_revisions
ON CONFLICT (digest) DO UPDATE SET revision = excluded.revision, first_seen_at = now()
RETURNING revision

-- name: create_months_of
-- The months that these times, in Unix milliseconds, fall into get a partition where they have none.
SELECT create_usage_months(month, 1) FROM (
    SELECT DISTINCT date_trunc('month', (timestamptz 'epoch' + ms * interval '1 millisecond') AT TIME ZONE 'UTC')::date
    FROM unnest($1::bigint[]) AS t (ms)
) AS months (month)

-- name: cursor_secret
-- Return what cursors are sealed with that carry a balance.
SELECT cursor_secret FROM installation

-- name: fold_due
-- Accounts whose hours are to be folded: those that are not caught up, and those that have $4 sums of hours or more that are
-- over and not folded. Who has none yet needs $1 in the last day: an account with fewer is read quickly as it is. Sums are
-- not more than requests, so that few accounts are looked at, and at most $3 of them at once, by chance: the others at
-- another time. With it until when hours are over, $2 being how long that takes.
WITH busy AS (
    SELECT account_id FROM usage_by_account
    WHERE granularity = 2 AND bucket >= date_trunc('day', now(), 'UTC') - interval '1 day'
    GROUP BY 1 HAVING sum(requests) >= $1
    UNION
    SELECT account_id FROM usage_folds
    WHERE NOT caught_up OR until < date_trunc('hour', now() - $2::interval, 'UTC') - interval '1 day'
), looked_at AS (
    SELECT account_id FROM busy ORDER BY random() LIMIT $3
)
SELECT account_id, date_trunc('hour', now() - $2::interval, 'UTC') AS ends
FROM looked_at LEFT JOIN usage_folds AS f USING (account_id)
WHERE NOT coalesce(f.caught_up, true) OR (
    SELECT count(*) FROM (
        SELECT FROM usage_sums AS s
        WHERE s.account_id = looked_at.account_id AND granularity = 1 AND tag = 0
            AND bucket >= coalesce(f.until, date_trunc('hour', now() - $2::interval, 'UTC') - interval '1 day')
            AND bucket < date_trunc('hour', now() - $2::interval, 'UTC')
        LIMIT CASE WHEN f.until IS NULL THEN $1 ELSE $4::bigint END) AS first
    ) = CASE WHEN f.until IS NULL THEN $1 ELSE $4 END
ORDER BY random()

-- name: fold_step
-- Which hours of account $1 are folded next, before $2: so many that they have about $3 sums, without tags and of all tags, and
-- one at least: requests of few combinations can have many values of a tag. No row: none is left.
WITH begun AS (
    SELECT coalesce((SELECT until FROM usage_folds WHERE account_id = $1), (
        SELECT bucket FROM usage_sums WHERE account_id = $1 AND granularity = 1 AND tag = 0 ORDER BY bucket LIMIT 1
    )) AS since
), tags AS (
    SELECT 0::bigint AS id UNION ALL SELECT id FROM usage_tags WHERE account_id = $1 AND value IS NULL
)
SELECT since, least($2::timestamptz, (
    SELECT min(next.bucket)
    FROM tags CROSS JOIN LATERAL (
        SELECT greatest(bucket, since + interval '1 hour') AS bucket FROM usage_sums
        WHERE account_id = $1 AND granularity = 1 AND tag = tags.id AND bucket >= since
        ORDER BY usage_sums.bucket OFFSET $3 / (SELECT count(*) FROM tags) LIMIT 1
    ) AS next
)) AS until
FROM begun WHERE since < $2

-- name: fold_usage
-- Add the hours of account $1 from $2 on and before $3, of which it has folded none yet, to its sums by dimension, by
-- tag and by tag and dimension, and note that it has; with $4 it is caught up. The turn is taken, so that no sums are raised
-- meanwhile.
WITH hours AS (
    SELECT bucket, tag, s.value, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_sums AS s JOIN usage_dimensions AS d ON d.account_id = s.account_id AND d.id = s.dimensions
    WHERE s.account_id = $1 AND granularity = 1 AND bucket >= $2 AND bucket < $3 AND tag = ANY (ARRAY(
        SELECT 0::bigint UNION ALL SELECT id FROM usage_tags WHERE account_id = $1 AND value IS NULL))
), by_names AS MATERIALIZED (
    SELECT bucket, tag, value,
        CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 WHEN endpoint IS NOT NULL THEN 5 WHEN feature IS NOT NULL THEN 6 ELSE 0
        END AS dimension,
        coalesce(key_id, user_id, model, provider, endpoint, feature, '') AS dimension_value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM hours
    GROUP BY bucket, tag, value, GROUPING SETS ((), key_id, user_id, model, provider, endpoint, feature)
), hours_folded AS (
    INSERT INTO usage_by_names (account_id, tag, dimension, granularity, bucket, dimension_value, value, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT $1, tag, dimension, 1, bucket, dimension_value, value, requests, input_tokens, cached_input_tokens,
        cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM by_names ORDER BY 2, 3, 5, 6, 7
), folded AS (
    INSERT INTO usage_by_names AS s (account_id, tag, dimension, granularity, bucket, dimension_value, value, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano)
    SELECT $1, tag, dimension, g.code, date_trunc(g.unit, bucket, 'UTC'), dimension_value, value, sum(requests),
        sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens), sum(reasoning_tokens),
        sum(cost_nano), sum(charged_nano)
    FROM by_names CROSS JOIN (VALUES (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 2, 3, 4, 5, 6, 7 ORDER BY 2, 3, 4, 5, 6, 7
    ON CONFLICT (account_id, tag, dimension, granularity, bucket, dimension_value, value) DO UPDATE SET
        requests = s.requests + excluded.requests,
        input_tokens = s.input_tokens + excluded.input_tokens,
        cached_input_tokens = s.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = s.cache_write_tokens + excluded.cache_write_tokens,
        output_tokens = s.output_tokens + excluded.output_tokens,
        reasoning_tokens = s.reasoning_tokens + excluded.reasoning_tokens,
        cost_nano = s.cost_nano + excluded.cost_nano,
        charged_nano = s.charged_nano + excluded.charged_nano
)
INSERT INTO usage_folds (account_id, until, caught_up) VALUES ($1, $3, $4)
ON CONFLICT (account_id) DO UPDATE SET until = excluded.until, caught_up = excluded.caught_up OR usage_folds.caught_up

-- name: gateways_end
-- Note that the process of gateway $1 has ended, notify the other gateways, and delete those that ended long ago.
WITH forgotten AS (
    DELETE FROM gateways WHERE id <> $1 AND coalesce(ended_at, lease_until) < now() - interval '1 hour'
), ended AS (
    UPDATE gateways SET ended_at = now(), lease_until = now() WHERE id = $1 RETURNING id
)
SELECT pg_notify('metergate_gateway_ended', id) FROM ended

-- name: gateways_end_all
UPDATE gateways SET ended_at = now(), lease_until = now() WHERE ended_at IS NULL

-- name: gateways_judge
-- Judge gateway $1 dead, lock its row until the transaction ends, and mark it so that it notices if it runs on. No row where its
-- lease has another value than $2 by now (null: it had none), and it has not ended.
WITH missing AS (
    INSERT INTO gateways (id, lease_until, judged, ended_at)
    SELECT $1, now(), now(), now() WHERE $2::timestamptz IS NULL
    ON CONFLICT DO NOTHING
    RETURNING id
), standing AS (
    UPDATE gateways SET judged = lease_until
    WHERE id = $1 AND (lease_until = $2::timestamptz OR ended_at IS NOT NULL)
    RETURNING id
)
SELECT id FROM missing UNION ALL SELECT id FROM standing

-- name: gateways_renew
-- Renew $1's lease, for $2 seconds as people read it, and read the others'. $3 is the layout of its state in Redis. The value differs from the last one even
-- where the server's clock stands still. Its own row comes with `judged`.
WITH renewed AS (
    INSERT INTO gateways (id, lease_until, layout) VALUES ($1, now() + $2 * interval '1 second', $3)
    ON CONFLICT (id) DO UPDATE SET ended_at = NULL, layout = excluded.layout, lease_until = CASE
        WHEN gateways.lease_until = excluded.lease_until THEN excluded.lease_until + interval '1 microsecond'
        ELSE excluded.lease_until END
    RETURNING id, lease_until, judged
)
SELECT id, lease_until, false AS ended, judged FROM renewed
UNION ALL
SELECT id, lease_until, ended_at IS NOT NULL, NULL FROM gateways WHERE id <> $1

-- name: gateways_standing
-- Return the gateways that have not ended, and the layout of their state in Redis. Whether one lives is judged by its lease.
SELECT id, lease_until, layout FROM gateways WHERE ended_at IS NULL

-- name: jobs_take
-- Take the lease of job $1 for $3 seconds; no row when another gateway has it.
INSERT INTO job_leases (name, owner, until) VALUES ($1, $2, now() + $3 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until WHERE job_leases.until <= now()
RETURNING owner

-- name: keys_spent
-- What keys $1 of accounts $2, in that order, were charged in the month of UTC that begins at $3: by key alone as far as the account is
-- folded, and of its combinations since. Each account is read by itself, once for all of its keys, which OFFSET 0 keeps
-- to short readings of indexes.
WITH accounts AS MATERIALIZED (
    SELECT asked.account_id, asked.keys, f.until, $3::timestamptz + interval '1 month' AS ends
    FROM (
        SELECT account_id, array_agg(key_id) AS keys FROM unnest($1::text[], $2::text[]) AS a (key_id, account_id) GROUP BY 1
    ) AS asked LEFT JOIN usage_folds AS f ON f.account_id = asked.account_id AND caught_up
), spent AS (
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT dimension_value AS key_id, charged_nano FROM usage_by_names
        WHERE account_id = a.account_id AND tag = 0 AND dimension = 1 AND granularity = 3 AND bucket = $3
            AND dimension_value = ANY (a.keys) OFFSET 0
    ) AS s
    WHERE a.until IS NOT NULL
    UNION ALL
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT d.key_id, u.charged_nano FROM usage_sums AS u JOIN usage_dimensions AS d ON d.id = u.dimensions
        WHERE u.account_id = a.account_id AND u.granularity = CASE WHEN a.until IS NULL THEN 3 ELSE 1 END AND u.tag = 0
            AND u.bucket >= greatest($3, a.until) AND u.bucket < a.ends AND d.key_id = ANY (a.keys) OFFSET 0
    ) AS s
    UNION ALL
    SELECT s.key_id, s.charged_nano FROM accounts AS a CROSS JOIN LATERAL (
        SELECT key_id, sum(charged_nano) AS charged_nano FROM usage_fresh
        WHERE account_id = a.account_id AND key_id = ANY (a.keys) AND admitted_at >= $3 AND admitted_at < a.ends GROUP BY 1
    ) AS s
)
SELECT key_id, sum(charged_nano)::text AS charged_nano FROM spent GROUP BY 1

-- name: place_debits
-- Store the sequence number that Redis gave to a debit that was written to Postgres before Redis had confirmed it.
UPDATE usage_events SET epoch = given.epoch, dseq = given.dseq
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS given (request_id, epoch, dseq)
WHERE usage_events.request_id = given.request_id AND usage_events.dseq IS NULL

-- name: reports_event
SELECT usage_events.*, prices.said AS price_said
FROM usage_events LEFT JOIN prices ON prices.id = usage_events.price_id
WHERE request_id = $1 AND ($2::text IS NULL OR account_id = $2)

-- name: reports_account_of_key
SELECT account_id FROM api_keys WHERE id = $1

-- name: reports_all_events
-- The same of all accounts: in their order of admission, which has an index of its own. So that each statement has one plan, it
-- is written out; parameters are the same, and $1 is nobody's.
SELECT *
FROM (
    SELECT looked_at.*, ($6::text IS NULL OR key_id = $6) AND ($7::text IS NULL OR user_id = $7)
        AND ($8::text IS NULL OR model = $8) AND ($9::text IS NULL OR provider = $9)
        AND ($10::text IS NULL OR endpoint = $10) AND ($11::integer IS NULL OR status = $11)
        AND ($12::boolean IS NULL OR estimated = $12) AND ($13::text IS NULL OR end_user = $13)
        AND ($14::text IS NULL OR tags ->> $14 IS NOT NULL AND ($15::text IS NULL OR tags ->> $14 = $15)) IS TRUE
        AND ($18::text IS NULL OR session = $18) AND ($19::text IS NULL OR tool = $19)
        AND ($20::integer IS NULL OR latency_ms >= $20) IS TRUE AS matches
    FROM (
        SELECT *, row_number() OVER (ORDER BY admitted_at DESC, request_id DESC) = $5::bigint AS is_last
        FROM usage_events
        WHERE $1::text IS NULL
            AND admitted_at >= coalesce($2::timestamptz, '-infinity')
            AND admitted_at < coalesce($3::timestamptz, 'infinity')
            AND admitted_at <= coalesce($4::timestamptz, 'infinity')
            AND ($4::timestamptz IS NULL OR (admitted_at, request_id) < ($4, $16::text))
        ORDER BY admitted_at DESC, request_id DESC
        LIMIT $5
    ) AS looked_at
) AS judged
WHERE matches OR is_last
ORDER BY admitted_at DESC, request_id DESC
LIMIT $17

-- name: reports_events
-- Events of account $1, newest first, after the place of a cursor. Of those in the time that is asked for at most $5 are looked
-- at, however few match: the last of them comes, too, and says so, so that the next page goes on from there.
SELECT *
FROM (
    SELECT looked_at.*, ($6::text IS NULL OR key_id = $6) AND ($7::text IS NULL OR user_id = $7)
        AND ($8::text IS NULL OR model = $8) AND ($9::text IS NULL OR provider = $9)
        AND ($10::text IS NULL OR endpoint = $10) AND ($11::integer IS NULL OR status = $11)
        AND ($12::boolean IS NULL OR estimated = $12) AND ($13::text IS NULL OR end_user = $13)
        AND ($14::text IS NULL OR tags ->> $14 IS NOT NULL AND ($15::text IS NULL OR tags ->> $14 = $15)) IS TRUE
        AND ($18::text IS NULL OR session = $18) AND ($19::text IS NULL OR tool = $19)
        AND ($20::integer IS NULL OR latency_ms >= $20) IS TRUE AS matches
    FROM (
        SELECT *, row_number() OVER (ORDER BY admitted_at DESC, request_id DESC) = $5::bigint AS is_last
        FROM usage_events
        WHERE account_id = $1
            AND admitted_at >= coalesce($2::timestamptz, '-infinity')
            AND admitted_at < coalesce($3::timestamptz, 'infinity')
            AND admitted_at <= coalesce($4::timestamptz, 'infinity')
            AND ($4::timestamptz IS NULL OR (admitted_at, request_id) < ($4, $16::text))
        ORDER BY admitted_at DESC, request_id DESC
        LIMIT $5
    ) AS looked_at
) AS judged
WHERE matches OR is_last
ORDER BY admitted_at DESC, request_id DESC
LIMIT $17

-- name: reports_slowest
-- Of the newest $4 events of account $1 in a time those that took longest, after the place of a cursor.
SELECT *
FROM (
    SELECT * FROM usage_events
    WHERE account_id = $1 AND admitted_at >= coalesce($2::timestamptz, '-infinity') AND admitted_at < $3
    ORDER BY admitted_at DESC, request_id DESC
    LIMIT $4
) AS looked_at
WHERE latency_ms >= coalesce($21::integer, 0)
    AND ($5::text IS NULL OR key_id = $5) AND ($6::text IS NULL OR user_id = $6) AND ($7::text IS NULL OR model = $7)
    AND ($8::text IS NULL OR provider = $8) AND ($9::text IS NULL OR endpoint = $9)
    AND ($10::integer IS NULL OR status = $10) AND ($11::boolean IS NULL OR estimated = $11)
    AND ($12::text IS NULL OR end_user = $12)
    AND ($13::text IS NULL OR tags ->> $13 IS NOT NULL AND ($14::text IS NULL OR tags ->> $13 = $14)) IS TRUE
    AND ($15::text IS NULL OR session = $15) AND ($16::text IS NULL OR tool = $16)
    AND ($17::integer IS NULL OR (latency_ms, admitted_at, request_id) < ($17, $18::timestamptz, $19::text))
ORDER BY latency_ms DESC, admitted_at DESC, request_id DESC
LIMIT $20

-- name: reports_all_slowest
-- The same of all accounts, written out so that each statement has one plan; $1 is nobody's.
SELECT *
FROM (
    SELECT * FROM usage_events
    WHERE $1::text IS NULL AND admitted_at >= coalesce($2::timestamptz, '-infinity') AND admitted_at < $3
    ORDER BY admitted_at DESC, request_id DESC
    LIMIT $4
) AS looked_at
WHERE latency_ms >= coalesce($21::integer, 0)
    AND ($5::text IS NULL OR key_id = $5) AND ($6::text IS NULL OR user_id = $6) AND ($7::text IS NULL OR model = $7)
    AND ($8::text IS NULL OR provider = $8) AND ($9::text IS NULL OR endpoint = $9)
    AND ($10::integer IS NULL OR status = $10) AND ($11::boolean IS NULL OR estimated = $11)
    AND ($12::text IS NULL OR end_user = $12)
    AND ($13::text IS NULL OR tags ->> $13 IS NOT NULL AND ($14::text IS NULL OR tags ->> $13 = $14)) IS TRUE
    AND ($15::text IS NULL OR session = $15) AND ($16::text IS NULL OR tool = $16)
    AND ($17::integer IS NULL OR (latency_ms, admitted_at, request_id) < ($17, $18::timestamptz, $19::text))
ORDER BY latency_ms DESC, admitted_at DESC, request_id DESC
LIMIT $20

-- name: reports_kinds
-- What each kind of transfer but usage has changed the balance of account $1 by, from $2 on and before $3: of these an account
-- has few, and an index for each side.
SELECT kind, sum(amount_nano) AS amount_nano
FROM (
    SELECT kind, -amount_nano AS amount_nano FROM transfers
    WHERE debit_account = $1 AND kind <> 'usage' AND created_at >= $2 AND created_at < $3
    UNION ALL
    SELECT kind, amount_nano FROM transfers
    WHERE credit_account = $1 AND kind <> 'usage' AND created_at >= $2 AND created_at < $3
) AS both_sides
GROUP BY kind

-- name: reports_price
SELECT said FROM prices WHERE id = $1

-- name: reports_changes
-- Changes of a balance but by usage, of kinds $4 (null: all), newest first, behind the one whose id is $2.
SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at FROM (
    (SELECT id, kind, -amount_nano AS amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE debit_account = $1 AND kind <> 'usage' AND id < $2 AND ($4::text[] IS NULL OR kind = ANY($4))
     ORDER BY id DESC LIMIT $3)
    UNION ALL
    (SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id < $2 AND ($4::text[] IS NULL OR kind = ANY($4))
     ORDER BY id DESC LIMIT $3)
) AS both_sides
ORDER BY id DESC LIMIT $3

-- name: reports_transactions
-- Each side of the ledger by its own index; a usage transfer never raises a customer's balance. The balance after each
-- is counted down from $4, what it was after the first one here; without that, from the account's own in the same
-- snapshot. Later pages are those of the list as it was at its first page, whose moment is $5 (when, in Unix seconds, and the
-- snapshot): what was settled since, and stands further down by the time of its request, is in no balance that was counted. What is
-- an hour older than that moment was there by then.
WITH list AS (
    SELECT coalesce($5, extract(epoch FROM now())::bigint || ':' || pg_current_snapshot()::text) AS moment
), first_page AS (
    SELECT moment, to_timestamp(split_part(moment, ':', 1)::bigint) - interval '1 hour' AS long_before,
        substr(moment, strpos(moment, ':') + 1)::pg_snapshot AS snapshot
    FROM list
)
SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at, first_page.moment,
    coalesce($4, (SELECT balance_nano FROM accounts WHERE id = $1)) - coalesce(
    sum(amount_nano) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::bigint AS balance_nano
FROM first_page, LATERAL (
    (SELECT id, kind, -amount_nano AS amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE debit_account = $1 AND id < $2
        AND ($5::text IS NULL OR created_at < long_before OR seen_in(xmin, snapshot)) ORDER BY id DESC LIMIT $3)
    UNION ALL
    (SELECT id, kind, amount_nano, request_id, idempotency_key, note, created_at
     FROM transfers WHERE credit_account = $1 AND kind <> 'usage' AND id < $2
        AND ($5::text IS NULL OR created_at < long_before OR seen_in(xmin, snapshot)) ORDER BY id DESC LIMIT $3)
) AS both_sides
ORDER BY id DESC LIMIT $3

-- name: retention_months
-- The partitions of months that began more than $1 months before this one, the oldest first: by the server's clock and by
-- $2, a gateway's, whichever is behind. A month stays as long as an export has events of it to tell, which has run in the last
-- 35 days: then most others have no use for what is older.
SELECT partition::text AS partition, month, month AT TIME ZONE 'UTC' AS since,
    (month + interval '1 month') AT TIME ZONE 'UTC' AS until
FROM (
    SELECT inhrelid::regclass AS partition, to_timestamp(right(relname, 7), 'YYYY_MM')::timestamp AS month
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'usage_events'::regclass AND relname ~ '^usage_events_[0-9]{4}_[0-9]{2}$'
) AS months
WHERE month < date_trunc('month', least(now(), $2) AT TIME ZONE 'UTC') - $1 * interval '1 month'
    AND NOT EXISTS (
        SELECT FROM exports AS x JOIN usage_events AS e ON e.wseq > x.wseq
        WHERE x.lease_until > now() - interval '35 days' AND e.admitted_at >= month AT TIME ZONE 'UTC'
            AND e.admitted_at < (month + interval '1 month') AT TIME ZONE 'UTC'
    )
ORDER BY month

-- name: retention_note
-- Keep what the events of the month from $1 on and before $2 came to. Some may have come after others were dropped.
INSERT INTO usage_months_dropped AS d (month, account_id, requests, counted_nano, charges, charged_nano)
SELECT ($1 AT TIME ZONE 'UTC')::date, account_id, count(*) FILTER (WHERE counted),
    coalesce(sum(charged_nano) FILTER (WHERE counted), 0), count(*) FILTER (WHERE charged_nano > 0), sum(charged_nano)
FROM (
    SELECT account_id, charged_nano, outcome = 'settled' OR input_tokens + output_tokens > 0 AS counted
    FROM usage_events WHERE admitted_at >= $1 AND admitted_at < $2
) AS events
GROUP BY account_id
ON CONFLICT (month, account_id) DO UPDATE SET
    requests = d.requests + excluded.requests,
    counted_nano = d.counted_nano + excluded.counted_nano,
    charges = d.charges + excluded.charges,
    charged_nano = d.charged_nano + excluded.charged_nano,
    dropped_at = now()

-- name: set_aside
-- Set a debit aside. It replaces the unreadable journal entry of the same request, because it says more.
INSERT INTO debits_set_aside (request_id, kind, debit, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (request_id) DO UPDATE SET kind = excluded.kind, debit = excluded.debit, reason = excluded.reason
WHERE debits_set_aside.kind = 'entry' AND excluded.kind = 'debit'

-- name: set_aside_forget
DELETE FROM debits_set_aside WHERE request_id = $1 AND debit = $2

-- name: set_aside_page
SELECT request_id, kind, debit, reason, created_at FROM debits_set_aside
WHERE request_id > $1 AND ($2::text[] IS NULL OR request_id = ANY ($2::text[])) ORDER BY request_id LIMIT $3

-- name: set_aside_reason
UPDATE debits_set_aside SET reason = $2 WHERE request_id = $1

-- name: stored_debits
-- Return what the ledger decided about requests that it had already.
SELECT request_id, outcome, xseq FROM usage_events WHERE request_id = ANY ($1::text[])

-- name: usage_folded
-- Until when account $1's usage is in the sums by one dimension; no row: reports are made without them.
SELECT until FROM usage_folds WHERE account_id = $1 AND caught_up

-- name: usage_groups
-- How many groups the usage of account $1 has at most in one span of time, but for what is fresh: by the dimensions in the places
-- $2 and $3 (null: none), and by the tag $4 (null: none).
SELECT count(DISTINCT ((ARRAY[key_id, user_id, model, provider, endpoint, feature])[$2::integer],
        (ARRAY[key_id, user_id, model, provider, endpoint, feature])[$3::integer]))
    * (SELECT count(*) + 1 FROM usage_tags WHERE account_id = $1 AND name = $4::text)
FROM usage_dimensions WHERE account_id = $1

-- name: usage_read_names
-- What account $1 has used in pieces of time ($2 to $6 as in usage_read.sql) by the values of each of the dimensions $7 (0: all
-- together, without a first value): those of $8 alone where it is not null. And by the values of the tag $9 with each of
-- them, in rows that are else as those of usage_read.sql. At most $10 rows.
WITH pieces AS MATERIALIZED (
    SELECT * FROM unnest($2::smallint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[])
        AS p (granularity, since, until, span, sign)
), counted AS MATERIALIZED (
    SELECT p.granularity, p.since, p.until, s.*
    FROM (SELECT DISTINCT granularity, since, until FROM pieces) AS p CROSS JOIN unnest($7::smallint[]) AS asked (dimension)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN dimension > 0 THEN dimension_value END AS first, value, sum(requests)::bigint AS requests,
                sum(input_tokens)::bigint AS input_tokens, sum(cached_input_tokens)::bigint AS cached_input_tokens,
                sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(output_tokens)::bigint AS output_tokens,
                sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_nano) AS cost_nano,
                sum(charged_nano) AS charged_nano
            FROM usage_by_names AS u
            WHERE account_id = $1 AND tag IN (0, $9::bigint) AND u.dimension = asked.dimension
                AND granularity = p.granularity AND bucket >= p.since AND bucket < p.until AND ($8::text[] IS NULL
                    OR dimension_value = ANY (CASE WHEN asked.dimension > 0 THEN $8 ELSE ARRAY[''] END))
            GROUP BY 1, 2
        ) AS s
), summed AS (
    SELECT span, first, value, sum(sign * requests)::bigint AS requests, sum(sign * input_tokens)::bigint AS input_tokens,
        sum(sign * cached_input_tokens)::bigint AS cached_input_tokens,
        sum(sign * cache_write_tokens)::bigint AS cache_write_tokens, sum(sign * output_tokens)::bigint AS output_tokens,
        sum(sign * reasoning_tokens)::bigint AS reasoning_tokens, sum(sign * cost_nano)::text AS cost_nano,
        sum(sign * charged_nano)::text AS charged_nano
    FROM pieces JOIN counted USING (granularity, since, until)
    GROUP BY 1, 2, 3
)
SELECT span, first, NULL AS second, value,
    CASE WHEN value <> 0 THEN (SELECT v.value FROM usage_tags AS v WHERE v.id = summed.value) END AS said, requests,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
FROM summed
LIMIT $10

-- name: usage_tag_names
SELECT id, name FROM usage_tags WHERE account_id = $1 AND value IS NULL

-- name: used_by_time
-- What all accounts were charged and what it cost in each day (granularity $1 is 2, $4 day) or hour (1, hour) from $2 on and
-- before $3; with what is fresh, from the same snapshot.
SELECT start, sum(requests) AS requests, sum(cost) AS cost, sum(charged) AS charged
FROM (
    SELECT bucket AS start, requests, cost_nano AS cost, charged_nano AS charged
    FROM usage_by_model WHERE granularity = $1 AND bucket >= $2 AND bucket < $3
    UNION ALL
    SELECT date_trunc($4, admitted_at, 'UTC'), 1, cost_nano, charged_nano
    FROM usage_fresh WHERE admitted_at >= $2 AND admitted_at < $3
) AS used
GROUP BY 1

-- name: verify_balances
-- Accounts whose balance is not the sum of their transfers, and names in transfers that are no account. System accounts
-- have no row: they are what their transfers sum to.
WITH moved AS (
    SELECT account_id, sum(amount_nano) AS amount_nano
    FROM (
        SELECT credit_account AS account_id, amount_nano FROM transfers
        UNION ALL
        SELECT debit_account, -amount_nano FROM transfers
    ) AS sides
    GROUP BY account_id
)
SELECT coalesce(accounts.id, moved.account_id) AS account_id, accounts.balance_nano,
    coalesce(moved.amount_nano, 0)::numeric AS transfers_nano
FROM accounts FULL JOIN moved ON moved.account_id = accounts.id
WHERE accounts.balance_nano IS DISTINCT FROM coalesce(moved.amount_nano, 0)
    AND (accounts.id IS NOT NULL OR moved.account_id NOT LIKE 'sys:%')
ORDER BY account_id

-- name: verify_by_names
-- Sums by dimension, by tag and by tag and dimension that are not what the sums by hour of the account come to before the moment that
-- usage_folds has, and sums without any.
WITH hours AS (
    SELECT s.account_id, bucket, tag, value, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, requests,
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_folds AS f JOIN usage_sums AS s ON s.account_id = f.account_id AND s.granularity = 1 AND s.bucket < f.until
        JOIN usage_dimensions AS d ON d.account_id = s.account_id AND d.id = s.dimensions
), by_hour AS MATERIALIZED (
    SELECT account_id, bucket, tag, value,
        CASE WHEN key_id IS NOT NULL THEN 1 WHEN user_id IS NOT NULL THEN 2 WHEN model IS NOT NULL THEN 3
            WHEN provider IS NOT NULL THEN 4 WHEN endpoint IS NOT NULL THEN 5 WHEN feature IS NOT NULL THEN 6 ELSE 0
        END AS dimension,
        coalesce(key_id, user_id, model, provider, endpoint, feature, '') AS dimension_value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM hours
    GROUP BY account_id, bucket, tag, value, GROUPING SETS ((), key_id, user_id, model, provider, endpoint, feature)
), summed AS (
    SELECT account_id, tag, dimension, g.code AS granularity, date_trunc(g.unit, bucket, 'UTC') AS bucket, dimension_value,
        value, sum(requests) AS requests, sum(input_tokens) AS input_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
        sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano,
        sum(charged_nano) AS charged_nano
    FROM by_hour CROSS JOIN (VALUES (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
)
SELECT account_id, granularity, bucket, s.requests AS sums, r.requests, s.charged_nano AS sums_charged_nano, r.charged_nano,
    (ARRAY['key', 'user', 'model', 'provider', 'endpoint', 'feature'])[dimension] AS dimension, dimension_value,
    CASE WHEN tag <> 0 THEN 'tag ' || coalesce((SELECT n.name FROM usage_tags AS n WHERE n.id = tag), tag::text) END AS tag,
    (SELECT v.value FROM usage_tags AS v WHERE v.id = coalesce(s.value, r.value)) AS said
FROM summed AS s FULL JOIN usage_by_names AS r
    USING (account_id, tag, dimension, granularity, bucket, dimension_value, value)
WHERE (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
        s.cost_nano, s.charged_nano)
    IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
        r.reasoning_tokens, r.cost_nano, r.charged_nano)
ORDER BY account_id, tag, dimension, granularity, bucket, dimension_value, value

-- name: verify_counts
-- Return how many rows of each kind the verification reads.
SELECT
    (SELECT count(*) FROM accounts) AS accounts,
    (SELECT count(*) FROM lots) AS lots,
    (SELECT count(*) FROM transfers) AS transfers,
    (SELECT count(*) FROM usage_events) AS events,
    (SELECT count(*) FROM usage_sums) + (SELECT count(*) FROM usage_fresh) AS rollups,
    (SELECT count(*) FROM usage_months_dropped) AS dropped,
    (SELECT count(*) FROM usage_by_account) + (SELECT count(*) FROM usage_by_model) AS of_all,
    (SELECT count(*) FROM usage_by_names) AS by_names

-- name: verify_dropped
-- Accounts whose rollups of a month from $1 on and before $2, of which events were dropped, are not what these came to,
-- with those that came since.
WITH dropped AS MATERIALIZED (
    SELECT month::timestamp AT TIME ZONE 'UTC' AS month, account_id, requests, counted_nano FROM usage_months_dropped
    WHERE month::timestamp AT TIME ZONE 'UTC' >= $1 AND month::timestamp AT TIME ZONE 'UTC' < $2
), months AS MATERIALIZED (
    SELECT DISTINCT month, (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' AS ends FROM dropped
), events AS (
    SELECT month, account_id, sum(requests) AS requests, sum(charged_nano) AS charged_nano
    FROM (
        SELECT month, account_id, requests, counted_nano AS charged_nano FROM dropped
        UNION ALL
        SELECT month, account_id, 1, charged_nano FROM months JOIN usage_events ON admitted_at >= month AND admitted_at < ends
        WHERE outcome = 'settled' OR input_tokens + output_tokens > 0
    ) AS every GROUP BY 1, 2
), rolled AS (
    SELECT month, account_id, sum(requests) AS requests, sum(charged_nano) AS charged_nano
    FROM (
        SELECT month, account_id, requests, charged_nano FROM months JOIN usage_rollups ON bucket = month AND granularity = 3
        UNION ALL
        SELECT month, account_id, 1, charged_nano FROM months JOIN usage_fresh ON admitted_at >= month AND admitted_at < ends
    ) AS every GROUP BY 1, 2
)
SELECT month, account_id, e.requests AS events, e.charged_nano AS events_charged_nano, r.requests, r.charged_nano
FROM events AS e FULL JOIN rolled AS r USING (month, account_id)
WHERE (coalesce(e.requests, 0), coalesce(e.charged_nano, 0)) <> (coalesce(r.requests, 0), coalesce(r.charged_nano, 0))
ORDER BY 1, 2

-- name: verify_events
-- Every event with what its amount was made from, to be computed again.
SELECT request_id, outcome, estimated, price_id, multiplier, markup_scaled, cost_nano, charged_nano,
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, counts, by_model
FROM usage_events

-- name: verify_lots
-- Accounts whose lots have less than their balance, and lots that are not their transfer's.
SELECT accounts.id AS account_id, NULL AS lot_id, accounts.balance_nano AS expected_nano, coalesce(kept.left_nano, 0)::numeric AS nano
FROM accounts LEFT JOIN (SELECT account_id, sum(left_nano) AS left_nano FROM lots GROUP BY account_id) AS kept
    ON kept.account_id = accounts.id
WHERE accounts.balance_nano > coalesce(kept.left_nano, 0)
UNION ALL
SELECT lots.account_id, lots.id, transfers.amount_nano, lots.amount_nano
FROM lots LEFT JOIN transfers ON transfers.id = lots.transfer_id AND transfers.credit_account = lots.account_id
WHERE lots.transfer_id IS NOT NULL AND transfers.amount_nano IS DISTINCT FROM lots.amount_nano
ORDER BY account_id

-- name: verify_of_all
-- What all accounts used in a day or a month by account, or in an hour, day or month by model and provider, where it is not
-- what their sums say.
SELECT by_account, granularity, bucket, first, second, s.requests AS sums, r.requests, s.charged_nano AS sums_charged_nano,
    r.charged_nano
FROM (
    SELECT true AS by_account, granularity, bucket, account_id AS first, '' AS second, sum(requests) AS requests,
        sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM usage_sums WHERE granularity >= 2 AND tag = 0
    GROUP BY 1, 2, 3, 4, 5
    UNION ALL
    SELECT false, u.granularity, u.bucket, coalesce(d.model, ''), coalesce(d.provider, ''), sum(u.requests), sum(u.cost_nano),
        sum(u.charged_nano)
    FROM usage_sums AS u LEFT JOIN usage_dimensions AS d ON d.id = u.dimensions
    WHERE u.granularity >= 1 AND u.tag = 0
    GROUP BY 1, 2, 3, 4, 5
) AS s FULL JOIN (
    SELECT true AS by_account, granularity, bucket, account_id AS first, '' AS second, requests, cost_nano, charged_nano
    FROM usage_by_account
    UNION ALL
    SELECT false, granularity, bucket, model, provider, requests, cost_nano, charged_nano FROM usage_by_model
) AS r USING (by_account, granularity, bucket, first, second)
WHERE (s.requests, s.cost_nano, s.charged_nano) IS DISTINCT FROM (r.requests, r.cost_nano, r.charged_nano)
ORDER BY by_account, granularity, bucket, first, second

-- name: verify_prices
-- Every price row that has priced a debit.
SELECT id, said FROM prices

-- name: verify_rollups
-- Sums from $1 on and before $2 that are not those of their events, and sums without any. What counts is as in write_debits.sql, the buckets as in
-- roll_usage.sql. Fresh rows are taken off: what is left of the events is what the sums must have. Dimensions and tags are
-- compared by the ids that they have: an event of a combination without a row differs. `verify_dropped`
-- knows of months whose events were dropped.
WITH every AS (
    SELECT account_id, admitted_at, key_id, user_id, model, provider, endpoint, feature, tags, 1 AS requests, input_tokens,
        cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, charged_nano
    FROM usage_events
    WHERE (outcome = 'settled' OR input_tokens + output_tokens > 0) AND admitted_at >= $1 AND admitted_at < $2
    UNION ALL
    SELECT account_id, admitted_at, key_id, user_id, model, provider, endpoint, feature, tags, -1, -input_tokens,
        -cached_input_tokens, -cache_write_tokens, -output_tokens, -reasoning_tokens, -cost_nano, -charged_nano
    FROM usage_fresh
    WHERE admitted_at >= $1 AND admitted_at < $2
), minutes AS MATERIALIZED (
    SELECT account_id, date_trunc('minute', admitted_at, 'UTC') AS minute, coalesce(d.id, 0) AS dimensions, tags,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM (SELECT account_id, admitted_at, key_id, coalesce(user_id, '') AS user_id, model, provider, endpoint, feature, tags,
            requests, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano,
            charged_nano
        FROM every) AS e
    LEFT JOIN usage_dimensions AS d USING (account_id, key_id, user_id, model, provider, endpoint, feature)
    GROUP BY 1, 2, 3, 4
), each AS (
    SELECT minutes.*, 0 AS tag, 0 AS value FROM minutes
    UNION ALL
    SELECT minutes.*, n.id, coalesce(v.id, n.id)
    FROM minutes JOIN usage_tags AS n ON n.account_id = minutes.account_id AND n.value IS NULL
    LEFT JOIN usage_tags AS v ON v.account_id = minutes.account_id AND v.name = n.name AND v.value = minutes.tags ->> n.name
    WHERE minutes.tags ->> n.name IS NOT NULL
), summed AS (
    SELECT account_id, g.code AS granularity, tag, date_trunc(g.unit, minute, 'UTC') AS bucket, dimensions, value,
        sum(requests) AS requests, sum(input_tokens) AS input_tokens, sum(cached_input_tokens) AS cached_input_tokens,
        sum(cache_write_tokens) AS cache_write_tokens, sum(output_tokens) AS output_tokens,
        sum(reasoning_tokens) AS reasoning_tokens, sum(cost_nano) AS cost_nano, sum(charged_nano) AS charged_nano
    FROM each CROSS JOIN (VALUES (0, 'minute'), (1, 'hour'), (2, 'day'), (3, 'month')) AS g (code, unit)
    GROUP BY 1, 2, 3, 4, 5, 6
    HAVING (sum(requests), sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
        sum(reasoning_tokens), sum(cost_nano), sum(charged_nano)) <> (0, 0, 0, 0, 0, 0, 0, 0)
), dropped AS MATERIALIZED (
    SELECT DISTINCT month::timestamp AT TIME ZONE 'UTC' AS month FROM usage_months_dropped
), rolled AS (
    SELECT * FROM usage_sums WHERE bucket >= $1 AND bucket < $2
), differing AS (
    SELECT account_id, granularity, tag, bucket, dimensions, value, s.requests AS events, r.requests,
        s.charged_nano AS events_charged_nano, r.charged_nano
    FROM summed AS s FULL JOIN rolled AS r USING (account_id, granularity, tag, bucket, dimensions, value)
    WHERE date_trunc('month', bucket, 'UTC') NOT IN (SELECT month FROM dropped)
        AND (s.requests, s.input_tokens, s.cached_input_tokens, s.cache_write_tokens, s.output_tokens, s.reasoning_tokens,
            s.cost_nano, s.charged_nano)
        IS DISTINCT FROM (r.requests, r.input_tokens, r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
            r.reasoning_tokens, r.cost_nano, r.charged_nano)
)
SELECT x.*, d.key_id, d.user_id, d.model, d.provider, d.endpoint, d.feature, n.name, v.value AS said
FROM differing AS x LEFT JOIN usage_dimensions AS d ON d.id = x.dimensions LEFT JOIN usage_tags AS n ON n.id = x.tag
LEFT JOIN usage_tags AS v ON v.id = x.value
ORDER BY x.account_id, x.granularity, x.bucket

-- name: verify_sum
-- The sum of all balances, those of system accounts included, where it is not zero.
SELECT total.nano AS sum_nano
FROM (
    SELECT (SELECT coalesce(sum(balance_nano), 0) FROM accounts)
        + (SELECT coalesce(sum(amount_nano), 0) FROM transfers WHERE credit_account LIKE 'sys:%')
        - (SELECT coalesce(sum(amount_nano), 0) FROM transfers WHERE debit_account LIKE 'sys:%') AS nano
) AS total
WHERE total.nano <> 0

-- name: verify_transfers
-- Events and usage transfers that do not belong together one to one: a charged event has exactly the transfer with its
-- request id, from its account to revenue, of its amount; an event that charged nothing has none. Of an account whose
-- events of some months were dropped, the transfers without an event have to be as many, and of as much, as these had.
WITH events AS (
    SELECT request_id, count(*) AS times, min(account_id) AS account_id, sum(charged_nano) AS charged_nano
    FROM usage_events GROUP BY request_id
), moved AS (
    SELECT id, request_id, debit_account, credit_account, amount_nano FROM transfers WHERE kind = 'usage'
), compared AS MATERIALIZED (
    SELECT coalesce(events.request_id, moved.id) AS request_id, events.times, events.account_id, events.charged_nano,
        moved.debit_account, moved.credit_account, moved.amount_nano,
        events.times IS NULL AND moved.request_id IS NOT DISTINCT FROM moved.id AND moved.credit_account = 'sys:revenue'
            AND moved.debit_account IN (SELECT account_id FROM usage_months_dropped) AS of_dropped
    FROM events FULL JOIN moved ON moved.id = events.request_id
    WHERE events.times IS DISTINCT FROM 1
        OR events.charged_nano IS DISTINCT FROM coalesce(moved.amount_nano, 0)
        OR (moved.id IS NOT NULL AND (
            moved.request_id IS DISTINCT FROM moved.id
            OR moved.debit_account IS DISTINCT FROM events.account_id
            OR moved.credit_account <> 'sys:revenue'))
), dropped AS (
    SELECT account_id, sum(charges) AS charges, sum(charged_nano) AS charged_nano
    FROM usage_months_dropped GROUP BY account_id
), alone AS (
    SELECT debit_account AS account_id, count(*) AS transfers, sum(amount_nano) AS amount_nano
    FROM compared WHERE of_dropped GROUP BY debit_account
)
SELECT request_id, times, account_id, charged_nano, debit_account, credit_account, amount_nano,
    NULL::numeric AS charges, NULL::bigint AS transfers
FROM compared WHERE NOT of_dropped
UNION ALL
SELECT NULL, NULL, account_id, charged_nano, NULL, NULL, coalesce(amount_nano, 0), charges, coalesce(transfers, 0)
FROM dropped LEFT JOIN alone USING (account_id)
WHERE (charges, charged_nano) IS DISTINCT FROM (coalesce(transfers, 0)::numeric, coalesce(amount_nano, 0))
ORDER BY 1, 3
