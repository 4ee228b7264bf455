-- Statements of `billing.holds`, each under its name. `billing.database.connection.queries` reads them.

-- name: corrected
-- Note that Redis has corrections up to $2. A locked account is skipped: the relay sends them again, which changes nothing.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)

-- name: corrected_many
-- Note that Redis has corrections of accounts $1 up to $2 (arrays of the same order); as `corrected`.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, published.xseq)
FROM unnest($1::text[], $2::bigint[]) AS published (id, xseq)
WHERE accounts.id = published.id AND accounts.id IN (
    SELECT id FROM accounts WHERE id = ANY ($1::text[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)

-- name: corrected_unloaded
-- Redis need not be told of corrections up to $2 of an account that it has not got: loading it reads the ledger. That is
-- so while no load of the partition's current epoch has begun: one that has may have read the ledger before them. An
-- account that is locked is left to the relay: only a note would be missing.
UPDATE accounts SET pushed_xseq = greatest(pushed_xseq, $2)
WHERE id = (SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)
    AND hyd_epoch < (SELECT epoch FROM partitions WHERE p = $3)

-- name: corrections_after
SELECT c.*, k.quotas AS key_quotas, m.user_id, m.quotas AS user_quotas
FROM corrections c LEFT JOIN api_keys k ON k.id = c.key_id
    LEFT JOIN member_limits m ON m.account_id = c.account_id AND m.user_id = k.user_id
WHERE c.account_id = $1 AND c.xseq > $2 ORDER BY c.xseq LIMIT $3

-- name: corrections_of_many
-- Corrections of several accounts ($1), each after a number ($2), at most $3 of each, with what the account counts in.
SELECT c.*, k.quotas AS key_quotas, m.user_id, m.quotas AS user_quotas, a.plan, a.quotas AS account_quotas
FROM unnest($1::text[], $2::bigint[]) AS asked (account_id, after)
    JOIN accounts a ON a.id = asked.account_id
    CROSS JOIN LATERAL (
        SELECT * FROM corrections
        WHERE corrections.account_id = asked.account_id AND corrections.xseq > asked.after
        ORDER BY corrections.xseq LIMIT $3) c
    LEFT JOIN api_keys k ON k.id = c.key_id
    LEFT JOIN member_limits m ON m.account_id = c.account_id AND m.user_id = k.user_id
ORDER BY c.account_id, c.xseq

-- name: ledger_beat
-- Raise the ledger's beat by one. Return the ledger's identity, the beat, its clock in Unix milliseconds, and every partition's epoch.
UPDATE installation SET beat = beat + 1
RETURNING ledger_identity() AS identity, beat, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
    ARRAY(SELECT p FROM partitions ORDER BY p) AS numbers, ARRAY(SELECT epoch FROM partitions ORDER BY p) AS epochs

-- name: load_account
-- An account as admission needs it, locked, and marked as loaded for epoch $2 of partition $3. No row when the epoch has
-- moved or the account does not exist. A row that another transaction has locked is waited for as long as $4 says, before
-- the partition is looked at: an epoch must be able to move meanwhile.
WITH mine AS MATERIALIZED (
    SELECT id FROM accounts
    WHERE id = $1 AND (SELECT set_config('lock_timeout', $4::text, true)) IS NOT NULL FOR NO KEY UPDATE
), current AS MATERIALIZED (
    SELECT mine.id FROM mine
    WHERE (SELECT epoch FROM partitions WHERE p = $3 AND mine.id IS NOT NULL FOR SHARE) = $2
)
UPDATE accounts SET hyd_epoch = greatest(hyd_epoch, $2) FROM current WHERE accounts.id = current.id
RETURNING balance_nano, xseq, version, plan, quotas

-- name: partitions_greet
-- Partition $1 as a handshake compares it with Redis: its epoch (0: none yet) and what names it. `ledger` is this ledger
-- and when the epoch began in it: no other ledger, and no copy of this one, says the same of an epoch of that number.
SELECT coalesce(p.epoch, 0) AS epoch, p.identity, i.beat,
    ledger_identity() || '@' || coalesce((extract(epoch FROM p.began_at) * 1000000)::bigint, 0) AS ledger
FROM installation i LEFT JOIN partitions p ON p.p = $1

-- name: partitions_move_epoch
-- From epoch $2 to epoch $4 by compare-and-set; no row when another gateway was faster. Answers as `partitions_greet`.
INSERT INTO partitions (p, epoch, identity) VALUES ($1, $4, $3)
ON CONFLICT (p) DO UPDATE SET epoch = excluded.epoch, identity = excluded.identity, began_at = now() WHERE partitions.epoch = $2
RETURNING epoch, (SELECT beat FROM installation) AS beat,
    ledger_identity() || '@' || (extract(epoch FROM began_at) * 1000000)::bigint AS ledger

-- name: pushed_account
-- Note that Redis and the gateways have versions $2 of accounts $1, in that order. A locked account is skipped: the relay pushes its
-- version again.
UPDATE accounts SET pushed_version = greatest(pushed_version, published.version)
FROM unnest($1::text[], $2::bigint[]) AS published (id, version)
WHERE accounts.id = published.id
    AND accounts.id IN (SELECT id FROM accounts WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)

-- name: pushed_key
-- Note that Redis and the gateways have versions $2 of keys $1, in that order. A locked key is skipped, as an account is.
UPDATE api_keys SET pushed_version = greatest(pushed_version, published.version)
FROM unnest($1::text[], $2::bigint[]) AS published (id, version)
WHERE api_keys.id = published.id
    AND api_keys.id IN (SELECT id FROM api_keys WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)

-- name: read_account_principal
SELECT version, plan, quotas, clock_timestamp() AS now FROM accounts WHERE id = $1

-- name: read_key_principal
-- A key; or, by the name that billing.principals.SERVICE_KEY begins, what another service uses in place of one.
SELECT account_id, version, quotas, clock_timestamp() AS now FROM api_keys WHERE id = $1
UNION ALL
SELECT NULL, 1, '[]'::jsonb, clock_timestamp() WHERE starts_with($1, 'service:')

-- name: read_user_principal
-- The quotas of user $2 in account $1, at the account's version, and the keys that count in them.
SELECT a.version, coalesce(m.quotas, '[]') AS quotas, coalesce(m.since, 0) AS since, clock_timestamp() AS now,
    ARRAY(SELECT k.id FROM api_keys k WHERE k.account_id = a.id AND k.user_id = $2) AS key_ids
FROM accounts a LEFT JOIN member_limits m ON m.account_id = a.id AND m.user_id = $2
WHERE a.id = $1

-- name: reconcile_accounts
-- Accounts that Redis was loaded with in one of the epochs $2, a page of at most $3 after $1. `subjects` are the account,
-- and its keys and users that have windows; `pending` says that Redis may not know of all its corrections.
SELECT a.id, a.hyd_epoch, a.xseq > a.pushed_xseq AS pending,
    1 + (SELECT count(*) FROM api_keys k WHERE k.account_id = a.id AND k.quotas <> '[]')
        + (SELECT count(*) FROM member_limits m WHERE m.account_id = a.id) AS subjects
FROM accounts a WHERE a.hyd_epoch = ANY ($2::bigint[]) AND a.id > $1 ORDER BY a.id LIMIT $3

-- name: reconcile_balances
-- What Redis should have of accounts $1, each told of correction $2 last and having counted debit $3 of epoch $6 last: the
-- ledger's balance, less the corrections that it was not told of, plus the debits that it has not counted. Events are looked for from their admission at $5 on;
-- `debits` are those after number $4, up to which all are known to be there. `later` debits are those that Redis has not
-- counted yet. OFFSET 0 keeps the events to one short reading of an index for each account, whatever the planner believes
-- of the table.
SELECT g.place, a.balance_nano, a.plan, a.quotas::text AS quotas, a.version, a.xseq AS newest_xseq, a.pushed_xseq,
    CASE WHEN a.xseq > g.xseq THEN
        (SELECT coalesce(sum(delta_nano), 0) FROM corrections c WHERE c.account_id = a.id AND c.xseq > g.xseq)
    ELSE 0 END::bigint AS pending_nano,
    u.later, u.later_nano, u.debits
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[])
    WITH ORDINALITY AS g (id, xseq, dseq, counted, since, place)
JOIN accounts a ON a.id = g.id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE dseq > g.dseq AND e.xseq IS NULL) AS later,
        coalesce(sum(charged_nano) FILTER (WHERE dseq > g.dseq AND e.xseq IS NULL), 0)::bigint AS later_nano,
        count(*) FILTER (WHERE dseq > g.counted AND dseq <= g.dseq) AS debits
    FROM usage_events e
    WHERE e.account_id = g.id AND e.admitted_at >= g.since AND e.epoch = $6
    OFFSET 0
) AS u

-- name: reconcile_keys
-- Keys of accounts $1 that have windows, and their quotas as text.
SELECT account_id, id, quotas::text AS quotas FROM api_keys WHERE account_id = ANY ($1::text[]) AND quotas <> '[]'

-- name: reconcile_later
-- The debits that the ledger has and Redis had not counted, of accounts $2 in places $1: those after debit $3 of epoch
-- $5, and later corrections than $4 but for those of debits that it had settled by then. As `window_usage_after`, for
-- many accounts, each debit by itself. Debits are looked for from their admission at $6 on.
SELECT g.place, u.key_id, u.feature, u.model, floor(extract(epoch FROM u.admitted_at))::bigint AS admitted_s,
    CASE WHEN u.outcome = 'settled' OR u.input_tokens + u.output_tokens > 0 THEN 1 ELSE 0 END AS requests,
    u.input_tokens, u.output_tokens, u.charged_nano AS cost_nano
FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::bigint[]) AS g (place, account_id, dseq, xseq)
CROSS JOIN LATERAL (
    SELECT e.key_id, e.feature, e.model, e.admitted_at, e.outcome, e.input_tokens, e.output_tokens, e.charged_nano
    FROM usage_events e
    WHERE e.account_id = g.account_id AND e.admitted_at >= $6 AND e.xseq IS NULL AND e.epoch = $5 AND e.dseq > g.dseq
    UNION ALL
    SELECT e.key_id, e.feature, e.model, e.admitted_at, e.outcome, e.input_tokens, e.output_tokens, e.charged_nano
    FROM corrections x JOIN usage_events e ON e.request_id = x.request_id
        AND e.admitted_at = timestamptz 'epoch' + x.admitted_at_ms * interval '1 millisecond'
    WHERE x.account_id = g.account_id AND x.xseq > g.xseq AND (e.epoch = $5 AND e.dseq <= g.dseq) IS NOT TRUE
) AS u

-- name: reconcile_moment
-- Partition $1 at the moment of this transaction.
SELECT epoch, began_at, now() AS now FROM partitions WHERE p = $1

-- name: reconcile_users
-- Users of accounts $1 that have quotas, these as text, and the keys that count in them.
SELECT m.account_id, m.user_id, m.quotas::text AS quotas, m.since,
    ARRAY(SELECT k.id FROM api_keys k WHERE k.account_id = m.account_id AND k.user_id = m.user_id) AS key_ids
FROM member_limits m WHERE m.account_id = ANY ($1::text[])

-- name: reconcile_windows
-- What was used in windows of many accounts: for each place $1 and window $3 of account $2 what its keys used from second
-- $5 on and before second $6, by feature, and by model where $7 asks for that. Rollups and what they do not have yet, of one snapshot, as in
-- `window_usage`. OFFSET 0 keeps each to one short reading of the rollups' index, whatever the planner believes of the
-- table; of fresh rows there are few, and they are read once.
WITH windows AS (
    SELECT * FROM unnest($1::integer[], $2::text[], $3::smallint[], $4::smallint[], $5::bigint[], $6::bigint[],
        $7::boolean[]) AS w (place, account_id, code, granularity, since_s, until_s, by_model)
), fresh AS MATERIALIZED (
    SELECT account_id, date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, key_id, feature, model,
        count(*) AS requests, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(charged_nano) AS cost_nano
    FROM usage_fresh
    WHERE account_id = ANY ($2::text[])
    GROUP BY 1, 2, 3, 4, 5
), used AS (
    SELECT w.place, w.code, w.by_model, r.key_id, r.feature, r.model, r.requests, r.input_tokens, r.output_tokens,
        r.cost_nano
    FROM windows w CROSS JOIN LATERAL (
        SELECT u.key_id, u.feature, u.model, u.requests, u.input_tokens, u.output_tokens, u.charged_nano AS cost_nano
        FROM usage_rollups u
        WHERE u.account_id = w.account_id AND u.granularity = w.granularity AND u.bucket >= to_timestamp(w.since_s)
            AND u.bucket < to_timestamp(w.until_s)
        OFFSET 0
    ) AS r
    UNION ALL
    SELECT w.place, w.code, w.by_model, f.key_id, f.feature, f.model, f.requests, f.input_tokens, f.output_tokens,
        f.cost_nano
    FROM windows w JOIN fresh f ON f.account_id = w.account_id AND f.minute >= to_timestamp(w.since_s)
        AND f.minute < to_timestamp(w.until_s)
)
SELECT place, code, key_id, feature, CASE WHEN by_model THEN model ELSE '' END AS model, sum(requests)::bigint AS requests,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(cost_nano)::bigint AS cost_nano
FROM used
GROUP BY 1, 2, 3, 4, 5

-- name: service_holds_count
SELECT account_id, count(*) AS open FROM service_holds WHERE state = 'held' GROUP BY account_id

-- name: service_holds_expire
-- Holds whose time is over, at most $1 of them, expire.
UPDATE service_holds SET state = 'expired', ended_at = now()
WHERE id = ANY (ARRAY(
    SELECT id FROM service_holds WHERE state = 'held' AND expires_at < now()
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
RETURNING id, account_id, 'service:' || service AS key_id

-- name: service_holds_held
SELECT id FROM service_holds WHERE id = ANY ($1::text[]) AND state = 'held'

-- name: service_holds_open
-- Open holds of a partition ($1) after id $2, at most $3.
SELECT id, payload FROM service_holds WHERE state = 'held' AND partition = $1 AND id > $2 ORDER BY id LIMIT $3

-- name: uncorrected_loaded
-- Accounts loaded for epoch $1 that have corrections which Redis may not have been told of, at most $2.
SELECT id FROM accounts WHERE xseq > pushed_xseq AND hyd_epoch = $1 ORDER BY id LIMIT $2

-- name: unpublished
-- Return what Redis and the gateways may not have, at most $1 of each kind: the newest versions of accounts after $2, and of
-- keys after $3; accounts after $4 with corrections.
(SELECT id AS account_id, NULL AS key_id, version, false AS of_balance FROM accounts
    WHERE version > pushed_version AND id > $2 ORDER BY id LIMIT $1)
UNION ALL
(SELECT account_id, id, version, false FROM api_keys WHERE version > pushed_version AND id > $3 ORDER BY id LIMIT $1)
UNION ALL
(SELECT id, NULL, NULL, true FROM accounts WHERE xseq > pushed_xseq AND id > $4 ORDER BY id LIMIT $1)

-- name: window_usage
-- What was used in each counter's window: from a second on and before another, by one account, or these keys of it. Rollups
-- and what they do not have yet, of one snapshot; windows begin with a minute, so that a fresh row is in one or is not, as
-- its rollup will be.
WITH counters AS (
    SELECT * FROM unnest($3::smallint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
        WITH ORDINALITY AS c (granularity, since_s, until_s, pattern, feature, place)
), fresh AS MATERIALIZED (
    SELECT date_bin('1 minute', admitted_at, timestamptz 'epoch') AS minute, model, feature, count(*) AS requests,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(charged_nano) AS charged_nano
    FROM usage_fresh
    WHERE account_id = $1 AND ($2::text[] IS NULL OR key_id = ANY ($2))
    GROUP BY 1, 2, 3
), used AS (
    SELECT c.place, r.requests, r.input_tokens, r.output_tokens, r.charged_nano
    FROM counters c JOIN usage_rollups r ON r.account_id = $1 AND ($2::text[] IS NULL OR r.key_id = ANY ($2))
        AND r.granularity = c.granularity AND r.bucket >= to_timestamp(c.since_s)
        AND r.bucket < to_timestamp(c.until_s) AND r.feature = c.feature
        AND (c.pattern = '' OR r.model = c.pattern
            OR (right(c.pattern, 1) = '*' AND starts_with(r.model, left(c.pattern, -1))))
    UNION ALL
    SELECT c.place, f.requests, f.input_tokens, f.output_tokens, f.charged_nano
    FROM counters c JOIN fresh f ON f.minute >= to_timestamp(c.since_s) AND f.minute < to_timestamp(c.until_s)
        AND f.feature = c.feature
        AND (c.pattern = '' OR f.model = c.pattern
            OR (right(c.pattern, 1) = '*' AND starts_with(f.model, left(c.pattern, -1))))
)
SELECT place, coalesce(sum(requests), 0)::bigint AS requests, coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(output_tokens), 0)::bigint AS output_tokens, coalesce(sum(charged_nano), 0)::bigint AS cost_nano
FROM counters LEFT JOIN used USING (place)
GROUP BY place

-- name: window_usage_after
-- The part of `window_usage` that Redis has counted itself since debit $3 of epoch $4 and correction $5: the epoch's later
-- debits, all written since $6, and later corrections but for those of debits that it had settled by then. The counters are
-- as in `window_usage`.
WITH later AS (
    SELECT request_id, admitted_at, outcome, key_id, model, feature, input_tokens, output_tokens, charged_nano
    FROM usage_events
    WHERE account_id = $1 AND xseq IS NULL AND epoch = $4 AND dseq > $3 AND created_at >= $6
    UNION ALL
    SELECT u.request_id, u.admitted_at, u.outcome, u.key_id, u.model, u.feature, u.input_tokens, u.output_tokens,
        u.charged_nano
    FROM corrections x JOIN usage_events u ON u.request_id = x.request_id
        AND u.admitted_at = timestamptz 'epoch' + x.admitted_at_ms * interval '1 millisecond'
    WHERE x.account_id = $1 AND x.xseq > $5 AND (u.epoch = $4 AND u.dseq <= $3) IS NOT TRUE
)
SELECT c.place, coalesce(sum(CASE WHEN u.outcome = 'settled' OR u.input_tokens + u.output_tokens > 0 THEN 1 ELSE 0 END)
        FILTER (WHERE u.request_id IS NOT NULL), 0)::bigint AS requests,
    coalesce(sum(u.input_tokens), 0)::bigint AS input_tokens,
    coalesce(sum(u.output_tokens), 0)::bigint AS output_tokens, coalesce(sum(u.charged_nano), 0)::bigint AS cost_nano
FROM unnest($7::bigint[], $8::bigint[], $9::text[], $10::text[])
    WITH ORDINALITY AS c (since_s, until_s, pattern, feature, place)
LEFT JOIN later u ON ($2::text[] IS NULL OR u.key_id = ANY ($2))
    AND u.admitted_at >= to_timestamp(c.since_s) AND u.admitted_at < to_timestamp(c.until_s) AND u.feature = c.feature
    AND (c.pattern = '' OR u.model = c.pattern
        OR (right(c.pattern, 1) = '*' AND starts_with(u.model, left(c.pattern, -1))))
GROUP BY c.place
