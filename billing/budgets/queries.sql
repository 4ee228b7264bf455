-- Statements of `billing.budgets`, each under its name. `billing.database.connection.queries` reads them.

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
