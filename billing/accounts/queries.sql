-- Statements of `billing.accounts`, each under its name. `billing.database.connection.queries` reads them.

-- name: accounts_create
INSERT INTO accounts (id, name, plan, credit_limit_nano, quotas, tz) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING *

-- name: accounts_get
SELECT * FROM accounts WHERE id = $1

-- name: accounts_lift
-- End a suspension, unless the account is not suspended or has another cause to be.
WITH found AS (
    SELECT id, status FROM accounts WHERE id = $1 AND $2 = ANY (suspended_for) FOR NO KEY UPDATE
)
UPDATE accounts a SET
    suspended_for = array_remove(a.suspended_for, $2::text),
    status = CASE
        WHEN a.status <> 'suspended' OR cardinality(array_remove(a.suspended_for, $2::text)) > 0 THEN a.status
        WHEN a.past_due_since IS NOT NULL THEN 'past_due'
        ELSE 'active'
    END,
    version = a.version + 1
FROM found WHERE a.id = found.id
RETURNING a.status, found.status AS before

-- name: accounts_lock
SELECT * FROM accounts WHERE id = $1 FOR NO KEY UPDATE

-- name: accounts_page
-- Read a page of accounts. $3 limits it to names that contain this text, or to this id; $4 to a status.
SELECT * FROM accounts
WHERE id < $1 AND ($3::text IS NULL OR id = $3 OR position(lower($3) IN lower(name)) > 0) AND ($4::text IS NULL OR status = $4)
ORDER BY id DESC LIMIT $2

-- name: accounts_suspend
WITH found AS (
    SELECT id, status FROM accounts WHERE id = $1 AND $2 <> ALL (suspended_for) FOR NO KEY UPDATE
)
UPDATE accounts a SET
    suspended_for = a.suspended_for || $2::text,
    status = CASE WHEN a.status = 'closed' THEN a.status ELSE 'suspended' END,
    version = a.version + 1
FROM found WHERE a.id = found.id
RETURNING a.status, found.status AS before

-- name: accounts_touch
-- Raise the account's version: gateways that know an older one read the account again.
UPDATE accounts SET version = version + 1 WHERE id = $1 RETURNING version

-- name: accounts_update
UPDATE accounts SET
    name = $2,
    plan = $3,
    status = $4,
    past_due_since = CASE WHEN $4 = 'past_due' THEN coalesce(past_due_since, now()) END,
    credit_limit_nano = $5,
    quotas = $6,
    tz = $7,
    suspended_for = $8,
    version = version + 1
WHERE id = $1
RETURNING *

-- name: grants_apply
-- Change the balance and write its correction for Redis and its transfer, in one statement so that all three exist or none.
WITH moved AS (
    UPDATE accounts SET balance_nano = balance_nano + $2, xseq = xseq + 1 WHERE id = $1
    RETURNING xseq
), told AS (
    INSERT INTO corrections (account_id, xseq, delta_nano) SELECT $1, xseq, $2 FROM moved
)
INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, idempotency_key,
    request_digest, note, metadata)
SELECT $3, $4, $5, abs($2), $6, $7, $8, $9, $10, $11 FROM moved

-- name: grants_find
SELECT id, request_digest, metadata FROM transfers WHERE idempotency_scope = $1 AND idempotency_key = $2

-- name: lots_add
-- A lot of account $2, whose balance has been raised by it already: debt is paid first, so that no more is left than there is.
INSERT INTO lots (id, account_id, kind, transfer_id, amount_nano, left_nano, priority, promotional, expires_at)
SELECT $1, $2, $3, $4, $5::bigint, least($5::bigint, greatest(balance_nano, 0)), $6, $7, $8
FROM accounts WHERE id = $2

-- name: lots_get
-- A lot by its id or by the transfer that made it, as it is now.
SELECT lots.*, coalesce(lots_now.left_now, 0)::bigint AS left_now
FROM lots LEFT JOIN lots_now ON lots_now.id = lots.id AND lots_now.account_id = $1
WHERE lots.account_id = $1 AND (lots.id = $2 OR lots.transfer_id = $2)

-- name: lots_included
-- What is left of account $1's lots that came with its plan.
SELECT coalesce(sum(left_now), 0)::bigint FROM lots_now WHERE account_id = $1 AND kind = 'subscription'

-- name: lots_next_expiry
-- What of account $1 expires next, and when.
SELECT expires_at, sum(left_now)::bigint AS left_nano
FROM lots_now WHERE account_id = $1 AND expires_at IS NOT NULL AND left_now > 0
GROUP BY expires_at ORDER BY expires_at LIMIT 1

-- name: lots_page
-- Lots of account $1, newest first, before $2; with $4 those alone of which something is left.
SELECT lots.*, coalesce(lots_now.left_now, 0)::bigint AS left_now
FROM lots LEFT JOIN lots_now ON lots_now.id = lots.id AND lots_now.account_id = $1
WHERE lots.account_id = $1 AND lots.id < $2 AND (NOT $4::boolean OR coalesce(lots_now.left_now, 0) > 0)
ORDER BY lots.id DESC LIMIT $3

-- name: lots_settle
-- What debits have taken since the lots of account $1 last changed, drawn from them. The caller has locked the account, and
-- nothing else changes its lots.
UPDATE lots SET left_nano = lots_now.left_now
FROM lots_now WHERE lots_now.account_id = $1 AND lots.id = lots_now.id AND lots.left_nano <> lots_now.left_now

-- name: lots_take
-- Take $3 from a lot of account $1, at most what is left of it. $2 is the lot's id or its transfer's; $4: whether it has expired.
UPDATE lots SET left_nano = left_nano - least(left_nano, $3::bigint),
    expired_nano = expired_nano + CASE WHEN $4::boolean THEN least(left_nano, $3::bigint) ELSE 0 END
WHERE account_id = $1 AND (id = $2 OR transfer_id = $2)

-- name: members_get
SELECT a.id AS account_id, m.quotas FROM accounts a LEFT JOIN member_limits m ON m.account_id = a.id AND m.user_id = $2
WHERE a.id = $1

-- name: members_page
SELECT user_id, quotas FROM member_limits WHERE account_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3

-- name: members_remove
DELETE FROM member_limits WHERE account_id = $1 AND user_id = $2

-- name: members_set
-- Set a user's quotas. `since` stays where the user had quotas before; the version is the account's after this change.
INSERT INTO member_limits (account_id, user_id, quotas, since) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id, user_id) DO UPDATE SET quotas = excluded.quotas, updated_at = now()

-- name: reprice_apply
-- The balance and its correction for Redis, by $2 in all, and the transfers $3, a JSON list: one statement, so that none is
-- without the others. Transfers that cancel each other out move no balance.
WITH moved AS (
    UPDATE accounts SET balance_nano = balance_nano + $2, xseq = xseq + 1 WHERE id = $1 AND $2 <> 0
    RETURNING xseq
), told AS (
    INSERT INTO corrections (account_id, xseq, delta_nano) SELECT $1, xseq, $2 FROM moved
)
INSERT INTO transfers (id, debit_account, credit_account, amount_nano, kind, idempotency_scope, idempotency_key,
    request_id, note, metadata)
SELECT id, debit_account, credit_account, amount_nano, kind, 'reprice', idempotency_key, request_id, note, metadata
FROM jsonb_to_recordset($3::jsonb) AS t (id text, debit_account text, credit_account text, amount_nano bigint, kind text,
    idempotency_key text, request_id text, note text, metadata jsonb)

-- name: reprice_corrected
-- What earlier corrections have charged more for requests $1, and the price of the last.
SELECT request_id, sum(CASE WHEN kind = 'adjustment' THEN amount_nano ELSE -amount_nano END) AS nano,
    count(*)::integer AS times, (array_agg(metadata->>'price_id' ORDER BY id DESC))[1] AS price_id
FROM transfers WHERE idempotency_scope = 'reprice' AND request_id = ANY ($1::text[])
GROUP BY request_id

-- name: reprice_events
-- Events of a provider and a model, that which served or one of several ($3: a JSON list that by_model contains), in the
-- order of accounts, of which each partition has an index; after ($7, $8, $9).
SELECT * FROM usage_events
WHERE provider = $1 AND (provider_model = $2 OR by_model @> $3::jsonb)
    AND admitted_at >= $4 AND admitted_at < $5
    AND ($6::text IS NULL OR account_id = $6)
    AND (account_id, admitted_at, request_id) > ($7, $8::timestamptz, $9)
ORDER BY account_id, admitted_at, request_id
LIMIT $10

-- name: reprice_prices
SELECT id, said FROM prices WHERE id = ANY ($1::text[])
