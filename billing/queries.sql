-- Statements of `billing`, each under its name. `billing.database.connection.queries` reads them.

-- name: accounts_audit
INSERT INTO audit_log (actor, action, subject, before, after, address, request_id, account_id, user_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)

-- name: audit_names
-- What people, keys, accounts and organizations are called whose ids are among $1; with $2 only what belongs to that account.
SELECT id, email AS name FROM users
WHERE id = ANY ($1::text[]) AND ($2::text IS NULL OR EXISTS (
    SELECT FROM memberships AS m JOIN organizations AS o ON o.id = m.org_id
    WHERE m.user_id = users.id AND o.account_id = $2))
UNION ALL
SELECT id, name FROM api_keys WHERE id = ANY ($1) AND ($2 IS NULL OR account_id = $2)
UNION ALL
SELECT id, name FROM accounts WHERE id = ANY ($1) AND ($2 IS NULL OR id = $2)
UNION ALL
SELECT id, name FROM organizations WHERE id = ANY ($1) AND ($2 IS NULL OR account_id = $2)

-- name: audit_page
-- Rows before $1, newest first; with $10 also those about this user that are of no account, such as sign-ins. With $9 the
-- address is shown only of the account's own (its keys, and who belongs to its organization), and of whoever has been,
-- or tried to be, this user.
SELECT id, at, actor, action, subject, before, after, request_id, account_id, user_id,
    CASE WHEN NOT $9 OR starts_with(actor, 'key:') OR EXISTS (
        SELECT FROM memberships m JOIN organizations o ON o.id = m.org_id
        WHERE o.account_id = a.account_id AND a.actor = 'user:' || m.user_id)
        OR (account_id IS NULL AND actor IN ('nobody', 'user:' || $10)) THEN address END AS address
FROM (
    (SELECT * FROM audit_log
    WHERE id < $1
        AND ($2::text IS NULL OR account_id = $2)
        AND ($3::text IS NULL OR user_id = $3)
        AND ($4::text IS NULL OR actor = $4)
        AND ($5::text IS NULL OR action = $5 OR (right($5, 2) = '.*' AND starts_with(action, left($5, -1))))
        AND ($6::timestamptz IS NULL OR at >= $6)
        AND ($7::timestamptz IS NULL OR at < $7)
    ORDER BY id DESC LIMIT $8)
    UNION ALL
    (SELECT * FROM audit_log
    WHERE id < $1
        AND user_id = $10::text AND account_id IS NULL
        AND ($4::text IS NULL OR actor = $4)
        AND ($5::text IS NULL OR action = $5 OR (right($5, 2) = '.*' AND starts_with(action, left($5, -1))))
        AND ($6::timestamptz IS NULL OR at >= $6)
        AND ($7::timestamptz IS NULL OR at < $7)
    ORDER BY id DESC LIMIT $8)
) a
ORDER BY id DESC LIMIT $8

-- name: begin_job
INSERT INTO background_jobs (
    object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    expires_at, lease_owner, lease_until)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + $10 * interval '1 second', $8, now() + $11 * interval '1 second')
ON CONFLICT DO NOTHING

-- name: budgets_claim
-- Claim up to $2 budgets that no gateway has looked at for $1 seconds, those of the longest ago first, with the time zones of
-- their accounts.
UPDATE budgets AS b SET looked_at = now()
FROM accounts AS a
WHERE a.id = b.account_id AND b.id IN (
    SELECT id FROM budgets WHERE looked_at <= now() - make_interval(secs => $1) ORDER BY looked_at, id LIMIT $2
    FOR UPDATE SKIP LOCKED
)
RETURNING b.*, a.tz

-- name: budgets_count
SELECT count(*) FROM budgets WHERE account_id = $1

-- name: budgets_delete
DELETE FROM budgets WHERE id = $1 AND account_id = $2 RETURNING *

-- name: budgets_get
SELECT * FROM budgets WHERE id = $1 AND account_id = $2

-- name: budgets_has_key
SELECT EXISTS (SELECT FROM api_keys WHERE id = $2 AND account_id = $1)

-- name: budgets_insert
INSERT INTO budgets (id, account_id, subject, about, period, amount_nano, thresholds, notify)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING *

-- name: budgets_lock
-- Return a budget, and keep others from changing it until the transaction ends: what a change leaves as it is must be as it is.
SELECT * FROM budgets WHERE id = $1 AND account_id = $2 FOR UPDATE

-- name: budgets_not_members
-- Return those of the addresses $2 that belong to no member of the organization of account $1.
SELECT address FROM unnest($2::text[]) AS address
WHERE NOT EXISTS (
    SELECT FROM organizations AS o JOIN memberships AS m ON m.org_id = o.id JOIN users AS u ON u.id = m.user_id
    WHERE o.account_id = $1 AND u.email = address
)

-- name: budgets_of_subject
-- Return the budgets of account $1 that cover the whole account.
SELECT * FROM budgets WHERE account_id = $1 AND subject = 'account' ORDER BY id

-- name: budgets_page
SELECT * FROM budgets WHERE account_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3

-- name: budgets_told
-- Budget $1 was told of in the period $2 up to the threshold $3, if it was not, nor of a later period (periods are named by
-- their first days), and nobody has changed or taken it since it was taken at $4.
UPDATE budgets SET told_period = $2, told = $3
WHERE id = $1 AND looked_at = $4 AND (told_period < $2 OR told_period = $2 AND told < $3)
RETURNING id

-- name: budgets_turn
-- Lock the making of an account's budgets until the transaction ends, so that their number is bounded.
SELECT pg_advisory_xact_lock(hashtext('metergate budgets'), hashtext($1))

-- name: budgets_update
-- Change a budget.
-- What was told of counts on where it is still of the same sum: up to the highest of its thresholds that stays. A threshold that
-- is new is told of, if it is reached and no higher one was told of that stays. Of another sum everything is told anew.
UPDATE budgets AS b SET subject = $3, about = $4, period = $5, amount_nano = $6, thresholds = $7, notify = $8,
    told_period = CASE WHEN (b.subject, b.about, b.period, b.amount_nano) = ($3, $4, $5, $6) THEN b.told_period ELSE '' END,
    told = CASE WHEN (b.subject, b.about, b.period, b.amount_nano) = ($3, $4, $5, $6) THEN coalesce(
        (SELECT max(each) FROM unnest(b.thresholds) AS each WHERE each <= b.told AND each = ANY ($7)), 0) ELSE 0 END,
    looked_at = '-infinity'
WHERE id = $1 AND account_id = $2 RETURNING *

-- name: claim_jobs
-- Jobs whose lease has lapsed, at most $3 of them, become the gateway's ($1) for $2 seconds.
UPDATE background_jobs SET lease_owner = $1, lease_until = now() + $2 * interval '1 second'
WHERE (object_id, provider) IN (
    SELECT object_id, provider FROM background_jobs
    WHERE done_at IS NULL AND lease_until < now()
    ORDER BY lease_until LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING object_id, provider, kind, model, service_tier, request_id, later_id, gateway_id, debit,
    extract(epoch FROM created_at)::float8 AS created_s, extract(epoch FROM expires_at)::float8 AS expires_s

-- name: find_objects
-- Those of the objects $2 that are the account's ($1), the oldest first.
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM provider_objects WHERE object_id = ANY ($2::text[]) AND account_id = $1 ORDER BY created_at

-- name: forget_jobs
-- Delete jobs that were done more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM background_jobs WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM background_jobs WHERE done_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: forget_objects
-- Delete objects that were recorded more than $1 days ago, at most $2 of them.
WITH gone AS (
    DELETE FROM provider_objects WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM provider_objects WHERE created_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: job_standing
-- What the ledger has decided of a job's request ($1), and whether nobody can settle it by its hold any more: the gateway ($2)
-- has released the job, or has ended, or has been silent for $5 seconds.
SELECT (SELECT outcome FROM usage_events WHERE request_id = $1) AS outcome,
    coalesce((SELECT released FROM background_jobs WHERE object_id = $3 AND provider = $4), true)
    OR NOT EXISTS (
        SELECT FROM gateways
        WHERE id = $2 AND ended_at IS NULL AND lease_until > now() - $5 * interval '1 second') AS unheld

-- name: backlogs
-- What has waited for more than $1 seconds, and what was given up in the last day; of fresh usage at most $2 rows are counted.
SELECT
    (SELECT count(*) FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
        AND created_at < now() - $1 * interval '1 second') AS mails_late,
    (SELECT count(*) FROM mail_outbox WHERE failed_at > now() - interval '1 day') AS mails_failed,
    (SELECT error FROM mail_outbox WHERE error IS NOT NULL AND (sent_at IS NULL AND failed_at IS NULL
        OR failed_at > now() - interval '1 day') ORDER BY created_at DESC LIMIT 1) AS mail_error,
    (SELECT count(*) FROM notices WHERE handed_out_at IS NULL AND created_at < now() - $1 * interval '1 second') AS notices_late,
    (SELECT count(*) FROM webhook_endpoints WHERE account_id IS NULL AND (disabled_at IS NOT NULL
        OR failing_since < now() - $1 * interval '1 second')) AS webhooks_failing,
    (SELECT count(*) FROM payment_events WHERE state = 'waiting'
        AND received_at < now() - $1 * interval '1 second') AS payment_events_late,
    (SELECT error FROM payment_events WHERE state = 'waiting' AND error IS NOT NULL
        ORDER BY received_at DESC LIMIT 1) AS payment_error,
    (SELECT count(*) FROM debits_set_aside) AS debits_set_aside,
    (SELECT count(*) FROM (SELECT FROM usage_fresh LIMIT $2) AS first) AS fresh

-- name: mail_enqueue
INSERT INTO mail_outbox (id, recipient, subject, body) VALUES ($1, $2, $3, $4)

-- name: pending
-- What there is to do in the background, by kind; each part is one look at an index of what waits.
SELECT
    coalesce(
        (SELECT true FROM accounts WHERE version > pushed_version ORDER BY id LIMIT 1),
        (SELECT true FROM api_keys WHERE version > pushed_version ORDER BY id LIMIT 1),
        (SELECT true FROM accounts WHERE xseq > pushed_xseq ORDER BY id LIMIT 1), false) AS changes,
    coalesce(
        (SELECT true FROM notices WHERE handed_out_at IS NULL ORDER BY created_at, id LIMIT 1),
        (SELECT next_attempt_at <= now() FROM webhook_deliveries WHERE delivered_at IS NULL AND parked_at IS NULL
            ORDER BY next_attempt_at, id LIMIT 1), false) AS notices,
    coalesce((SELECT next_attempt_at <= now() FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
        ORDER BY next_attempt_at LIMIT 1), false) AS mails,
    coalesce((SELECT true FROM payment_events WHERE state = 'waiting' ORDER BY next_attempt_at, received_at LIMIT 1),
        false) AS payment_events,
    coalesce((SELECT lease_until < now() FROM background_jobs WHERE done_at IS NULL ORDER BY lease_until LIMIT 1),
        false) AS jobs,
    coalesce((SELECT true FROM service_holds WHERE state = 'held' ORDER BY partition, id LIMIT 1), false) AS service_holds,
    (SELECT max(revision) FROM plan_revisions) AS plans_revision

-- name: record_objects
-- Objects of one account each, as a JSON array ($1). One that is known stays its first account's; of its own account's it takes
-- the total that is known now. Returns what is the given account's.
INSERT INTO provider_objects AS known (object_id, provider, account_id, kind, model, total_tokens)
SELECT object_id, provider, account_id, kind, model, total_tokens
FROM jsonb_to_recordset($1::text::jsonb) AS given (
    object_id text, provider text, account_id text, kind text, model text, total_tokens bigint)
ON CONFLICT (object_id, provider) DO UPDATE
    SET total_tokens = coalesce(EXCLUDED.total_tokens, known.total_tokens)
    WHERE known.account_id = EXCLUDED.account_id
RETURNING object_id, provider

-- name: release_job
-- Release a job from the gateway ($3): another may poll it, and settle it by a hold of its own.
UPDATE background_jobs SET lease_until = now(), released = released OR gateway_id = $3
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL

-- name: renew_job
UPDATE background_jobs SET lease_until = now() + $4 * interval '1 second'
WHERE object_id = $1 AND provider = $2 AND lease_owner = $3 AND done_at IS NULL
RETURNING true

-- name: search
-- What is called $1 or has this id, and what begins with it: in lower case ($2) for names and mails, as it is ($3) for ids, as
-- patterns of LIKE that indexes answer. Of one kind ($4) or of each, $5 of it.
SELECT kind, id, name, about FROM (
    (SELECT 1 AS place, 'account' AS kind, id, name, plan || ', ' || replace(status, '_', ' ') AS about,
        id = $1 OR lower(name) = lower($1) AS whole
    FROM accounts WHERE coalesce($4, 'account') = 'account' AND (lower(name) LIKE $2 OR id LIKE $3)
    ORDER BY whole DESC, id DESC LIMIT $5)
    UNION ALL
    (SELECT 2, 'person', id, coalesce(email, name), name, id = $1 OR email = lower($1) AS whole
    FROM users WHERE coalesce($4, 'person') = 'person' AND (email LIKE $2 OR lower(name) LIKE $2 OR id LIKE $3)
    ORDER BY whole DESC, id DESC LIMIT $5)
    UNION ALL
    (SELECT 3, 'key', k.id, k.name, a.name || CASE WHEN k.revoked_at IS NULL THEN '' ELSE ', revoked' END,
        k.id = $1 OR lower(k.name) = lower($1) AS whole
    FROM api_keys AS k JOIN accounts AS a ON a.id = k.account_id
    WHERE coalesce($4, 'key') = 'key' AND (lower(k.name) LIKE $2 OR k.id LIKE $3)
    ORDER BY whole DESC, k.id DESC LIMIT $5)
    UNION ALL
    (SELECT 4, 'request', request_id, request_id, model || ', ' || to_char(admitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), true
    FROM usage_events WHERE coalesce($4, 'request') = 'request' AND request_id = $1 LIMIT $5)
    UNION ALL
    (SELECT 5, 'order', id, id, kind || ', ' || status, true
    FROM orders WHERE coalesce($4, 'order') = 'order' AND (id = $1 OR payment_id = $1 OR checkout_id = $1) LIMIT $5)
) AS found
ORDER BY place, whole DESC, id DESC
