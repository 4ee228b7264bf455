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
