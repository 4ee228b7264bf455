-- Statements of `billing.identity`, each under its name. `billing.database.connection.queries` reads them.

-- name: browsers_bind
-- Bind a new session to the cookie of digest $2 for $3 seconds. Its tokens, which nobody was shown, end.
WITH tokens AS (
    DELETE FROM refresh_tokens WHERE session_id = $1)
UPDATE sessions SET kind = 'browser', cookie_digest = $2, expires_at = now() + $3 * interval '1 second'
WHERE id = $1 AND ended_at IS NULL RETURNING id

-- name: browsers_caller
-- Who shows the cookie of digest $1, and what they are in the session's organization, or else in the first one; no row
-- for a session that is over. With $2 it is used, and lasts $3 seconds from now on, but $4 in all; noted once a minute.
WITH shown AS (
    SELECT * FROM sessions WHERE cookie_digest = $1 AND ended_at IS NULL AND expires_at > now()),
used AS (
    UPDATE sessions SET last_used_at = now(),
        expires_at = least(now() + $3 * interval '1 second', created_at + $4 * interval '1 second')
    WHERE $2 AND id = (SELECT id FROM shown WHERE last_used_at < now() - interval '1 minute'))
SELECT shown.id AS session_id, shown.kind, shown.scopes, shown.provider, shown.domain, users.id, users.email,
    users.email_verified_at IS NOT NULL AS verified, users.status, users.operator,
    users.totp_confirmed_at IS NOT NULL AS second_factor, place.org_id, place.role, place.account_id
FROM shown LEFT JOIN users ON users.id = shown.user_id
LEFT JOIN LATERAL (
    SELECT memberships.org_id, memberships.role, organizations.account_id
    FROM memberships JOIN organizations ON organizations.id = memberships.org_id
    WHERE memberships.user_id = users.id
    ORDER BY memberships.org_id = shown.org_id DESC NULLS LAST, memberships.created_at, memberships.org_id LIMIT 1) place ON true
WHERE shown.kind = 'operator' OR (users.status <> 'disabled' AND users.tokens_valid_from <= shown.created_at)

-- name: browsers_see
-- Have the session $1 see the pages of the account $2 for $3 seconds; null: its own. What it saw before.
UPDATE sessions SET seen_account = $2, seen_until = now() + make_interval(secs => $3)
FROM (SELECT id, CASE WHEN seen_until > now() THEN seen_account END AS seen FROM sessions WHERE id = $1 FOR UPDATE) before
WHERE sessions.id = before.id AND ended_at IS NULL RETURNING before.seen

-- name: browsers_seen
SELECT seen_account FROM sessions WHERE id = $1 AND seen_until > now()

-- name: browsers_choose
-- Have the session $1 be about the organization $2 from now on, where its user belongs to it.
UPDATE sessions SET org_id = $2 WHERE id = $1 AND ended_at IS NULL
    AND EXISTS (SELECT FROM memberships WHERE org_id = $2 AND user_id = sessions.user_id) RETURNING id

-- name: browsers_end
-- End the session of the cookie of digest $1 for the reason $2.
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE cookie_digest = $1 AND ended_at IS NULL RETURNING id, user_id

-- name: browsers_enter
-- Use the link of digest $1 up, and begin the session $2 of an operator with the cookie of digest $3 for $6 seconds, from
-- the address $4 with the browser $5; no row for a link that is unknown, used or over.
WITH used AS (
    UPDATE operator_links SET used_at = now() WHERE digest = $1 AND used_at IS NULL AND expires_at > now() RETURNING 1)
INSERT INTO sessions (id, kind, cookie_digest, address, user_agent, expires_at)
SELECT $2, 'operator', $3, $4, $5, now() + $6 * interval '1 second' FROM used RETURNING id

-- name: browsers_link
-- Add a link of digest $1 that is good for $2 seconds.
INSERT INTO operator_links (digest, expires_at) VALUES ($1, now() + $2 * interval '1 second') RETURNING expires_at

-- name: browsers_link_standing
SELECT true FROM operator_links WHERE digest = $1 AND used_at IS NULL AND expires_at > now()

-- name: codes_context
-- What a code for an address and purpose was about: the one of this id ($3), else the last; of the last day alone.
SELECT context FROM one_time_codes
WHERE email = $1 AND purpose = $2 AND ($3::text IS NULL OR id = $3) AND created_at > now() - interval '1 day'
ORDER BY created_at DESC, id DESC LIMIT 1

-- name: codes_create
-- A code for an address, where it and who asks ($8) have asked for few in the last hour. $1 is an id, $2 the address,
-- $3 the purpose, $4 whose, $5 the digest, $6 what it is about, $7 seconds until it expires. With $11 the address's own
-- are those that this network has asked for.
INSERT INTO one_time_codes (id, email, purpose, user_id, digest, context, expires_at, network)
SELECT $1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second', $8
WHERE (
    SELECT count(*) FROM one_time_codes
    WHERE email = $2 AND created_at > now() - interval '1 hour' AND ($11 IS NOT TRUE OR network = $8)
) < $9 AND ($8::text IS NULL OR (
    SELECT count(*) FROM one_time_codes WHERE network = $8 AND created_at > now() - interval '1 hour'
) < $10)
RETURNING id

-- name: codes_end
-- End the codes of a user and of their address.
UPDATE one_time_codes SET used_at = now() WHERE (user_id = $1 OR email = $2) AND used_at IS NULL

-- name: codes_forget
WITH old AS (
    SELECT id FROM one_time_codes WHERE expires_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM one_time_codes USING old WHERE one_time_codes.id = old.id RETURNING 1)
SELECT count(*) FROM gone

-- name: codes_try
-- Take one of the tries of a code that stands: the one of this id ($3), else the newest of the address and purpose. No row
-- where there is none, or its tries are used up.
UPDATE one_time_codes SET attempts = attempts + 1
WHERE id = (
    SELECT id FROM one_time_codes
    WHERE email = $1 AND purpose = $2 AND ($3::text IS NULL OR id = $3) AND used_at IS NULL AND expires_at > now()
    ORDER BY created_at DESC, id DESC LIMIT 1
) AND attempts < $4 AND used_at IS NULL AND expires_at > now()
RETURNING id, email, digest, context, user_id

-- name: codes_try_id
-- Take one of the tries of the code of an id and purpose.
UPDATE one_time_codes SET attempts = attempts + 1
WHERE id = $1 AND purpose = $2 AND attempts < $3 AND used_at IS NULL AND expires_at > now()
RETURNING id, email, digest, context, user_id

-- name: codes_use
-- Use up a code that was right, and end the others for the same address and purpose.
WITH used AS (
    UPDATE one_time_codes SET used_at = now() WHERE id = $1 AND used_at IS NULL RETURNING email, purpose
), others AS (
    UPDATE one_time_codes o SET used_at = now() FROM used
    WHERE o.email = used.email AND o.purpose = used.purpose AND o.id <> $1 AND o.used_at IS NULL
)
SELECT true FROM used

-- name: codes_wait
-- Seconds until one more code for an address ($1) may be asked for by a network ($2): until the oldest of the last hour
-- that counts is an hour old; null where one may be now. With $5 the address's own are those of this network.
SELECT ceil(extract(epoch FROM max(oldest) + interval '1 hour' - clock_timestamp()))::integer FROM (
    SELECT min(created_at) AS oldest, count(*) AS sent, $3::bigint AS most FROM one_time_codes
    WHERE email = $1 AND created_at > now() - interval '1 hour' AND ($5 IS NOT TRUE OR network = $2)
    UNION ALL
    SELECT min(created_at), count(*), $4 FROM one_time_codes
    WHERE network = $2 AND created_at > now() - interval '1 hour'
) counted WHERE sent >= most

-- name: forget_keys
-- Delete keys that verify nothing more, at most $1 of them.
WITH gone AS (
    DELETE FROM signing_keys WHERE kid = ANY (ARRAY(SELECT kid FROM signing_keys WHERE retired_at < now() LIMIT $1))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: forget_operator_links
-- Delete links that were over more than a day ago, at most $1 of them.
WITH deleted AS (
    DELETE FROM operator_links WHERE digest IN (
        SELECT digest FROM operator_links WHERE expires_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED)
    RETURNING 1)
SELECT count(*) FROM deleted

-- name: forget_refresh_tokens
-- Delete refresh tokens that have expired, at most $1 of them.
WITH gone AS (
    DELETE FROM refresh_tokens WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM refresh_tokens WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: forget_revoked
-- Delete revocations of tokens that have expired, at most $1 of them.
WITH gone AS (
    DELETE FROM revoked_tokens WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM revoked_tokens WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING 1)
SELECT count(*) FROM gone

-- name: forget_sessions
-- Delete sessions that ended more than a day ago, with their refresh tokens, at most $1 of them.
WITH gone AS (
    SELECT id FROM sessions WHERE least(ended_at, expires_at) < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED),
tokens AS (
    DELETE FROM refresh_tokens WHERE session_id IN (SELECT id FROM gone)),
deleted AS (
    DELETE FROM sessions WHERE id IN (SELECT id FROM gone) RETURNING 1)
SELECT count(*) FROM deleted

-- name: forget_unverified
-- Delete those who have registered an address, have not proven it for $1 days, and have nothing but the personal
-- organization that was made with it, if one was, at most $2 of them. The account, which ledgers may name, stays as a closed one.
-- OFFSET 0 has each condition looked up by its index for one person after another: as joins, planning them takes 20 ms.
WITH old AS (
    SELECT users.id, organizations.id AS org_id, organizations.account_id
    FROM users
    LEFT JOIN memberships ON memberships.user_id = users.id
    LEFT JOIN organizations ON organizations.id = memberships.org_id AND organizations.personal
    WHERE users.status = 'pending' AND users.email_verified_at IS NULL
        AND users.created_at < now() - $1 * interval '1 day'
        AND NOT EXISTS (SELECT FROM user_identities WHERE user_id = users.id OFFSET 0)
        AND NOT EXISTS (SELECT FROM one_time_codes WHERE email = users.email AND expires_at > now() OFFSET 0)
        AND NOT EXISTS (SELECT FROM memberships AS other WHERE other.user_id = users.id AND other.org_id IS DISTINCT FROM organizations.id OFFSET 0)
        AND NOT EXISTS (SELECT FROM memberships AS other WHERE other.org_id = organizations.id AND other.user_id <> users.id OFFSET 0)
        AND NOT EXISTS (SELECT FROM invitations WHERE org_id = organizations.id OFFSET 0)
        AND NOT EXISTS (SELECT FROM api_keys WHERE account_id = organizations.account_id OFFSET 0)
        AND NOT EXISTS (SELECT FROM transfers WHERE debit_account = organizations.account_id OFFSET 0)
        AND NOT EXISTS (SELECT FROM transfers WHERE credit_account = organizations.account_id AND kind <> 'usage' OFFSET 0)
    ORDER BY users.created_at LIMIT $2 FOR UPDATE OF users SKIP LOCKED),
tokens AS (
    DELETE FROM refresh_tokens USING sessions, old WHERE session_id = sessions.id AND sessions.user_id = old.id),
signed_in AS (DELETE FROM sessions USING old WHERE user_id = old.id),
codes AS (DELETE FROM one_time_codes USING old WHERE user_id = old.id),
recovery AS (DELETE FROM recovery_codes USING old WHERE user_id = old.id),
belongs AS (DELETE FROM memberships USING old WHERE user_id = old.id),
owned AS (DELETE FROM organizations USING old WHERE organizations.id = old.org_id),
accounts_closed AS (
    UPDATE accounts SET status = 'closed', name = 'Never verified', version = version + 1
    FROM old WHERE accounts.id = old.account_id),
noted AS (
    INSERT INTO audit_log (actor, action, subject, after, account_id, user_id)
    SELECT 'system', 'user.forget', id, '{"reason": "the address was never verified"}', account_id, id FROM old),
gone AS (DELETE FROM users USING old WHERE users.id = old.id RETURNING 1)
SELECT count(*) FROM gone

-- name: group_rules_get
SELECT rules FROM group_rules WHERE org_id = $1

-- name: group_rules_set
INSERT INTO group_rules (org_id, rules) VALUES ($1, $2) ON CONFLICT (org_id) DO UPDATE SET rules = excluded.rules

-- name: invitation_mails_add
-- Note a mail; some that are old are forgotten with it.
WITH old AS (
    DELETE FROM invitation_mails WHERE ctid IN (
        SELECT ctid FROM invitation_mails WHERE sent_at < now() - interval '24 hours'
        ORDER BY sent_at LIMIT 100 FOR UPDATE SKIP LOCKED))
INSERT INTO invitation_mails (sent_by, email) VALUES ($1, $2)

-- name: invitation_mails_counts
-- How many invitations were mailed in 24 hours by a person and to an address, of whatever organizations.
SELECT
    (SELECT count(*) FROM invitation_mails WHERE sent_by = $1 AND sent_at > now() - interval '24 hours') AS by_person,
    (SELECT count(*) FROM invitation_mails WHERE email = $2 AND sent_at > now() - interval '24 hours') AS to_address

-- name: invitations_accept
UPDATE invitations SET accepted_at = now() WHERE id = $1

-- name: invitations_acceptable
-- Read an invitation under the lock of the organization's row, so that the second of two acceptances finds it used.
SELECT invitations.id, invitations.role
FROM invitations JOIN users ON users.email = invitations.email
WHERE invitations.digest = $1 AND users.id = $2 AND users.email_verified_at IS NOT NULL AND users.status <> 'disabled'
    AND invitations.accepted_at IS NULL AND invitations.revoked_at IS NULL AND invitations.expires_at > now()

-- name: invitations_seen
-- Whose an invitation is that can be accepted, before anybody has signed in.
SELECT organizations.name AS organization,
    coalesce(nullif(users.name, ''), 'somebody at ' || split_part(users.email, '@', 2)) AS inviter, invitations.email,
    invitations.role, invitations.expires_at
FROM invitations JOIN organizations ON organizations.id = invitations.org_id
LEFT JOIN users ON users.id = invitations.invited_by
WHERE invitations.digest = $1 AND invitations.accepted_at IS NULL AND invitations.revoked_at IS NULL
    AND invitations.expires_at > now()

-- name: invitations_counts
-- What an organization has: members, open invitations, those that it has sent in 24 hours, and whether this address is
-- a member's already, or has an open invitation.
SELECT
    (SELECT count(*) FROM memberships WHERE org_id = $1) AS members,
    count(*) FILTER (WHERE is_open) AS open,
    count(*) FILTER (WHERE created_at > now() - interval '24 hours') AS today,
    coalesce(bool_or(is_open AND email = $2), false) AS invited,
    EXISTS (
        SELECT FROM memberships JOIN users ON users.id = memberships.user_id
        WHERE memberships.org_id = $1 AND users.email = $2
    ) AS belongs,
    (SELECT plan FROM accounts WHERE id = $3) AS plan
FROM (
    SELECT *, accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now() AS is_open
    FROM invitations WHERE org_id = $1
) AS theirs

-- name: invitations_end
UPDATE invitations SET revoked_at = now()
WHERE org_id = $1 AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING id, email, role

-- name: invitations_end_to
-- Revoke the open invitations, also those that have expired, to some addresses and to that of the user $3.
UPDATE invitations SET revoked_at = now()
WHERE org_id = $1 AND (email = ANY ($2::text[]) OR email = (SELECT users.email FROM users WHERE users.id = $3))
    AND accepted_at IS NULL AND revoked_at IS NULL
RETURNING id, email, role

-- name: invitations_get
SELECT *, expires_at <= now() AS expired FROM invitations WHERE org_id = $1 AND id = $2

-- name: invitations_insert
INSERT INTO invitations (id, org_id, email, role, digest, invited_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + $7 * interval '1 second')
RETURNING *, false AS expired

-- name: invitations_organization
SELECT org_id FROM invitations WHERE digest = $1

-- name: invitations_page
SELECT *, expires_at <= now() AS expired FROM invitations
WHERE org_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3

-- name: invitations_resend
UPDATE invitations SET digest = $2, expires_at = now() + $3 * interval '1 second', sends = sends + 1
WHERE id = $1
RETURNING *, false AS expired

-- name: invitations_revoke
UPDATE invitations SET revoked_at = now() WHERE id = $1

-- name: invitations_withdraw
-- Open invitations of somebody who may no longer send them, but for those to roles that they still may give.
UPDATE invitations SET revoked_at = now()
WHERE org_id = $1 AND invited_by = $2 AND accepted_at IS NULL AND revoked_at IS NULL AND role <> ALL ($3::text[])
RETURNING id, email, role

-- name: keys_add
-- Add the key $1: the first one signs now; one beside others signs $4 seconds after the last of them began to, and not
-- before it has been published for as long, or for a day.
INSERT INTO signing_keys (kid, private_pem, public_jwk, active_from)
SELECT $1, $2, $3, CASE WHEN bool_or(active_from <= clock_timestamp())
    THEN greatest(now() + least($4, 86400) * interval '1 second', max(active_from) + $4 * interval '1 second')
    ELSE now() END
FROM signing_keys WHERE retired_at IS NULL

-- name: keys_retire
-- Retire keys that another one has replaced: they verify for $1 more seconds, and their private part is removed.
UPDATE signing_keys old SET retired_at = now() + $1 * interval '1 second', private_pem = ''
WHERE retired_at IS NULL AND EXISTS (
    SELECT FROM signing_keys new WHERE new.active_from <= clock_timestamp() AND (new.active_from, new.kid) > (old.active_from, old.kid))

-- name: keys_seal
-- Store the private part of the key $1 as $3, where it is $2 yet.
UPDATE signing_keys SET private_pem = $3 WHERE kid = $1 AND private_pem = $2

-- name: keys_standing
-- The keys that sign, will sign or still verify; the last active one of those with a private part signs. Times are those of now, not of the transaction, which may have waited for its lock.
SELECT kid, private_pem, public_jwk, active_from <= clock_timestamp() AS active FROM signing_keys
WHERE retired_at IS NULL OR retired_at > clock_timestamp() ORDER BY active_from, kid

-- name: mail_claim
-- Take the mail that is to be sent next. It is tried again after $1 seconds, twice as long for each try before, at most $2:
-- also where whoever took it dies.
UPDATE mail_outbox SET attempts = attempts + 1,
    next_attempt_at = now() + least($2, $1 * 2.0 ^ least(attempts, 30)) * interval '1 second'
WHERE id = (
    SELECT id FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL AND next_attempt_at <= now()
    ORDER BY next_attempt_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, recipient, subject, body, created_at, attempts

-- name: mail_expire
-- Park mails that have waited for $1 seconds: what they say no longer holds.
WITH old AS (
    SELECT id FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
        AND created_at < now() - $1 * interval '1 second' LIMIT $2 FOR UPDATE SKIP LOCKED
), parked AS (
    UPDATE mail_outbox SET failed_at = now(), body = '', error = coalesce(error, 'nothing sends mails: SMTP_HOST is not set')
    FROM old WHERE mail_outbox.id = old.id RETURNING 1
)
SELECT count(*) FROM parked

-- name: mail_failed
-- A try failed, for the reason $2; with $3 for good: it is parked, and its text, which nobody needs any more, removed.
UPDATE mail_outbox SET error = $2, failed_at = CASE WHEN $3 THEN now() END, body = CASE WHEN $3 THEN '' ELSE body END
WHERE id = $1

-- name: mail_forget
WITH old AS (
    SELECT id FROM mail_outbox WHERE (sent_at IS NOT NULL OR failed_at IS NOT NULL)
        AND created_at < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM mail_outbox USING old WHERE mail_outbox.id = old.id RETURNING 1)
SELECT count(*) FROM gone

-- name: mail_sent
UPDATE mail_outbox SET sent_at = now(), body = '', error = NULL WHERE id = $1

-- name: mail_standing
SELECT
    (SELECT count(*) FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL) AS waiting,
    (SELECT count(*) FROM mail_outbox WHERE failed_at IS NOT NULL) AS parked,
    coalesce((
        SELECT extract(epoch FROM now() - min(created_at)) FROM mail_outbox WHERE sent_at IS NULL AND failed_at IS NULL
    ), 0)::float8 AS lag_s

-- name: memberships_delete
DELETE FROM memberships WHERE org_id = $1 AND user_id = $2

-- name: memberships_get
SELECT memberships.user_id, memberships.role, memberships.created_at, memberships.managed, memberships.max_keys,
    users.email, users.name
FROM memberships JOIN users ON users.id = memberships.user_id
WHERE memberships.org_id = $1 AND memberships.user_id = $2

-- name: memberships_insert
INSERT INTO memberships (org_id, user_id, role) VALUES ($1, $2, $3)

-- name: memberships_manage
-- Note that a member's role, and how many keys they may have, are those of a group, or are not.
UPDATE memberships SET managed = $3, max_keys = $4 WHERE org_id = $1 AND user_id = $2

-- name: memberships_managed
SELECT user_id, role, managed, max_keys FROM memberships WHERE org_id = $1 AND user_id = $2

-- name: memberships_owned
-- How many organizations a person owns, but for those whose accounts are closed.
SELECT count(*) FROM memberships
JOIN organizations ON organizations.id = memberships.org_id JOIN accounts ON accounts.id = organizations.account_id
WHERE memberships.user_id = $1 AND memberships.role = 'owner' AND accounts.status <> 'closed'

-- name: memberships_owners
-- Count the owners of an organization other than $2 who can sign in; disabled users do not count.
SELECT count(*) FROM memberships JOIN users ON users.id = memberships.user_id
WHERE memberships.org_id = $1 AND memberships.role = 'owner' AND memberships.user_id <> $2 AND users.status <> 'disabled'

-- name: memberships_page
SELECT memberships.user_id, memberships.role, memberships.created_at, memberships.managed, memberships.max_keys,
    users.email, users.name
FROM memberships JOIN users ON users.id = memberships.user_id
WHERE memberships.org_id = $1 AND memberships.user_id < $2
ORDER BY memberships.user_id DESC LIMIT $3

-- name: memberships_role
SELECT role FROM memberships WHERE org_id = $1 AND user_id = $2

-- name: memberships_room
-- Members of an organization, and those whom it expects: invited, or with a place that nobody has taken yet.
SELECT accounts.plan,
    (SELECT count(*) FROM memberships WHERE org_id = $1) AS members,
    (SELECT count(*) FROM invitations
        WHERE org_id = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > now())
    + (SELECT count(*) FROM scim_users WHERE org_id = $1 AND active AND user_id IS NULL) AS expected
FROM organizations JOIN accounts ON accounts.id = organizations.account_id WHERE organizations.id = $1

-- name: memberships_set_role
UPDATE memberships SET role = $3 WHERE org_id = $1 AND user_id = $2

-- name: memberships_user
SELECT email, email_verified_at IS NOT NULL AS verified, status FROM users WHERE id = $1 FOR NO KEY UPDATE

-- name: organization_domains_add
-- Those that another organization has stay its own.
INSERT INTO organization_domains (domain, org_id) SELECT unnest($2::text[]), $1 ON CONFLICT (domain) DO NOTHING

-- name: organization_domains_get
SELECT domain FROM organization_domains WHERE org_id = $1 ORDER BY domain

-- name: organization_domains_remove
DELETE FROM organization_domains WHERE org_id = $1 AND domain <> ALL ($2::text[])

-- name: organizations_get
SELECT * FROM organizations WHERE id = $1

-- name: organizations_insert
INSERT INTO organizations (id, slug, name, personal, account_id) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (slug) DO NOTHING
RETURNING *

-- name: organizations_leak_recipients
-- Who is told of a key that leaked: its user, or else the owners of the organization that has its account.
SELECT email FROM users WHERE id = $2
UNION
SELECT users.email
FROM organizations
JOIN memberships ON memberships.org_id = organizations.id AND memberships.role = 'owner'
JOIN users ON users.id = memberships.user_id
WHERE organizations.account_id = $1 AND NOT EXISTS (SELECT FROM users WHERE id = $2)
LIMIT $3

-- name: organizations_lock
-- Lock an organization's row, as every change of its members and every new key of a member does first.
SELECT * FROM organizations WHERE id = $1 FOR NO KEY UPDATE

-- name: organizations_lock_of_account
SELECT * FROM organizations WHERE account_id = $1 FOR NO KEY UPDATE

-- name: organizations_of_account
SELECT * FROM organizations WHERE account_id = $1

-- name: organizations_of_user
SELECT organizations.*, memberships.role
FROM memberships JOIN organizations ON organizations.id = memberships.org_id
WHERE memberships.user_id = $1 AND organizations.id < $2
ORDER BY organizations.id DESC LIMIT $3

-- name: organizations_shared
-- Mark a personal organization that is transferred as a shared one.
UPDATE organizations SET personal = false WHERE id = $1

-- name: users_called
-- What somebody calls themself; empty: nothing.
SELECT name FROM users WHERE id = $1

-- name: organizations_update
-- An account that is called like its organization goes on to be: operators look for it by that name. One that they have named keeps its name.
WITH account AS (
    UPDATE accounts AS a SET name = $2 FROM organizations AS o
    WHERE o.id = $1 AND a.id = o.account_id AND a.name = o.name AND $2 <> o.name
)
UPDATE organizations SET name = $2, slug = $3 WHERE id = $1

-- name: recovery_left
SELECT count(*) FROM recovery_codes WHERE user_id = $1 AND used_at IS NULL

-- name: recovery_replace
-- Replace all recovery codes of a user.
WITH gone AS (DELETE FROM recovery_codes WHERE user_id = $1)
INSERT INTO recovery_codes (user_id, digest) SELECT $1, unnest($2::bytea[])

-- name: recovery_use
UPDATE recovery_codes SET used_at = now() WHERE user_id = $1 AND digest = $2 AND used_at IS NULL
RETURNING (SELECT count(*) FROM recovery_codes WHERE user_id = $1 AND used_at IS NULL) - 1

-- name: refresh_claims
-- What an access token of the session $1 says, in the organization $2 or else the session's, or else the first one; no
-- row for a user who is disabled.
SELECT users.id AS user_id, users.email, users.status = 'active' AS active, sessions.id AS session_id, sessions.scopes, place.org_id, place.role,
    extract(epoch FROM now())::float8 AS issued_at, extract(epoch FROM sessions.expires_at)::float8 AS ends_at
FROM sessions JOIN users ON users.id = sessions.user_id
LEFT JOIN LATERAL (
    SELECT org_id, role FROM memberships WHERE user_id = users.id AND ($2::text IS NULL OR org_id = $2)
    ORDER BY org_id = sessions.org_id DESC NULLS LAST, created_at, org_id LIMIT 1) place ON true
WHERE sessions.id = $1 AND sessions.ended_at IS NULL AND users.status <> 'disabled'

-- name: refresh_find
-- The refresh token of digest $1 with its session, both locked: two who show it at once come one after the other.
-- $2 is for how many seconds a token that was rotated has its successor given again.
SELECT sessions.id AS session_id, sessions.user_id, sessions.provider, sessions.domain, token.salt,
    token.rotated_at < clock_timestamp() - $2 * interval '1 second' AS reused,
    sessions.ended_at IS NULL AND sessions.expires_at > now() AND token.expires_at > now() AS valid
FROM refresh_tokens token JOIN sessions ON sessions.id = token.session_id
WHERE token.digest = $1 FOR UPDATE

-- name: refresh_rotate
-- Replace the refresh token of digest $1 by that of digest $2, which is made of it and the salt $3, for $4 seconds.
WITH old AS (
    UPDATE refresh_tokens SET rotated_at = clock_timestamp(), salt = $3 WHERE digest = $1 RETURNING session_id),
used AS (
    UPDATE sessions SET last_used_at = now(), expires_at = now() + $4 * interval '1 second' FROM old WHERE id = session_id)
INSERT INTO refresh_tokens (digest, session_id, expires_at) SELECT $2, session_id, now() + $4 * interval '1 second' FROM old

-- name: refresh_trim
-- Delete the used refresh tokens of the session $1 but the newest $2, so that refreshing in a loop keeps the table bounded.
DELETE FROM refresh_tokens WHERE digest IN (
    SELECT digest FROM refresh_tokens WHERE session_id = $1 AND rotated_at IS NOT NULL
    ORDER BY rotated_at DESC, digest OFFSET $2)

-- name: refresh_whose
SELECT session_id, user_id FROM refresh_tokens JOIN sessions ON sessions.id = session_id WHERE digest = $1

-- name: scim_members
-- Members, but for owners, whom the directory of the organization $1 has as active, all or those of $2, with the names and
-- the directory's own ids of their groups there.
SELECT scim_users.user_id, memberships.role, memberships.managed, memberships.max_keys, array(
    SELECT name FROM scim_groups JOIN scim_group_members ON group_id = scim_groups.id WHERE member_id = scim_users.id
    UNION SELECT external_id FROM scim_groups JOIN scim_group_members ON group_id = scim_groups.id
    WHERE member_id = scim_users.id AND external_id IS NOT NULL) AS groups
FROM scim_users JOIN memberships ON memberships.org_id = scim_users.org_id AND memberships.user_id = scim_users.user_id
WHERE scim_users.org_id = $1 AND scim_users.active AND memberships.role <> 'owner'
    AND ($2::text[] IS NULL OR scim_users.user_id = ANY ($2))
ORDER BY scim_users.user_id

-- name: scim_users_known
-- Whether the directory of an organization has somebody, active or not: by a place that they have taken, or by one that is
-- kept for the address that they have proven.
SELECT EXISTS (SELECT FROM scim_users WHERE org_id = $1 AND user_id = $2)
    OR EXISTS (SELECT FROM scim_users JOIN users ON users.email = scim_users.email
        WHERE scim_users.org_id = $1 AND scim_users.user_id IS NULL
            AND users.id = $2 AND users.email_verified_at IS NOT NULL)

-- name: scim_users_release
UPDATE scim_users SET user_id = NULL WHERE id = $1

-- name: scim_users_take
-- Give the place $1 to the user $2, whose proven address it is kept for, and who has no other one there. Who is no member
-- yet needs an address of a domain of the organization's: others join by invitation alone.
UPDATE scim_users SET user_id = users.id FROM users
WHERE scim_users.id = $1 AND users.id = $2 AND scim_users.email = users.email AND users.email_verified_at IS NOT NULL
    AND scim_users.active AND scim_users.user_id IS NULL
    AND (EXISTS (SELECT FROM organization_domains WHERE org_id = scim_users.org_id AND domain = split_part(users.email, '@', 2))
        OR EXISTS (SELECT FROM memberships WHERE org_id = scim_users.org_id AND user_id = $2))
    AND NOT EXISTS (SELECT FROM scim_users other WHERE other.org_id = scim_users.org_id AND other.user_id = $2)
RETURNING scim_users.id

-- name: scim_users_waiting
-- Places that are kept for the address that the user $1 has proven, where they may take them: those that any other
-- organization keeps neither hide these nor are waited for.
SELECT scim_users.id, scim_users.org_id FROM users JOIN scim_users ON scim_users.email = users.email
WHERE users.id = $1 AND users.email_verified_at IS NOT NULL AND scim_users.active AND scim_users.user_id IS NULL
    AND (EXISTS (SELECT FROM organization_domains WHERE org_id = scim_users.org_id AND domain = split_part(users.email, '@', 2))
        OR EXISTS (SELECT FROM memberships WHERE org_id = scim_users.org_id AND user_id = users.id))
ORDER BY scim_users.org_id LIMIT 100

-- name: sealed_some
-- Secrets that are sealed, and what each is: the keys that sign, where these are used ($1), and the first and the last of
-- the authenticator apps.
SELECT private_pem AS stored, 'signing key ' || kid AS what FROM signing_keys
WHERE $1::boolean AND private_pem LIKE 'sealed:%' AND (retired_at IS NULL OR retired_at > clock_timestamp())
UNION ALL (SELECT totp_secret, 'totp ' || id FROM users WHERE totp_secret LIKE 'sealed:%' ORDER BY id LIMIT 1)
UNION ALL (SELECT totp_secret, 'totp ' || id FROM users WHERE totp_secret LIKE 'sealed:%' ORDER BY id DESC LIMIT 1)

-- name: sessions_bound
-- End the sessions of the user $1 but the $2 that were used last.
UPDATE sessions SET ended_at = now(), end_reason = 'too many sessions' WHERE id IN (
    SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()
    ORDER BY last_used_at DESC, id DESC OFFSET $2)

-- name: sessions_caller
-- Who shows a token of the user $1, or of the subject $3 of the issuer $2, and what they are in the organization $4, or
-- else in the first one; no row for a token that is not valid any more. $5 its session, $6 its jti, $7 and $8 when it was
-- issued and expires in Unix seconds, $9 the key that signed it, null where that is not one of ours.
SELECT users.id, users.email, users.email_verified_at IS NOT NULL AS verified, users.status, users.operator,
    users.totp_confirmed_at IS NOT NULL AS second_factor, sessions.scopes, place.org_id, place.role, place.account_id
FROM users
LEFT JOIN sessions ON sessions.id = $5 AND sessions.user_id = users.id
LEFT JOIN LATERAL (
    SELECT memberships.org_id, memberships.role, organizations.account_id
    FROM memberships JOIN organizations ON organizations.id = memberships.org_id
    WHERE memberships.user_id = users.id AND ($4::text IS NULL OR memberships.org_id = $4)
    ORDER BY memberships.created_at, memberships.org_id LIMIT 1) place ON true
WHERE users.id = coalesce($1, (SELECT user_id FROM user_identities WHERE issuer = $2 AND subject = $3))
    AND users.status <> 'disabled'
    AND CASE WHEN $5::text IS NULL THEN users.tokens_valid_from <= to_timestamp($7::float8)
        ELSE date_trunc('second', users.tokens_valid_from) <= to_timestamp($7::float8)
            AND sessions.ended_at IS NULL AND sessions.expires_at > now() AND to_timestamp($8::float8) > now() END
    AND NOT EXISTS (SELECT FROM revoked_tokens WHERE jti = $6 AND user_id IN ('', users.id))
    AND ($9::text IS NULL OR EXISTS (SELECT FROM signing_keys WHERE kid = $9))

-- name: sessions_end
-- End the session $1 for the reason $2, where it is one of the user $3 or that is null; no row where it has ended already.
UPDATE sessions SET ended_at = now(), end_reason = $2
WHERE id = $1 AND ended_at IS NULL AND ($3::text IS NULL OR user_id = $3) RETURNING user_id

-- name: sessions_end_all
-- End all sessions of the user $1 for the reason $2, but $3; in one order, so that two who do so don't wait for each other.
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE id IN (
    SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND id IS DISTINCT FROM $3 ORDER BY id FOR UPDATE)

-- name: sessions_end_in
-- End the sessions of the user $1 that are about the organization $2, for the reason $3.
UPDATE sessions SET ended_at = now(), end_reason = $3 WHERE id IN (
    SELECT id FROM sessions WHERE user_id = $1 AND org_id = $2 AND ended_at IS NULL ORDER BY id FOR UPDATE)

-- name: sessions_lately
-- Whether the session $1 began at most $2 seconds ago, however often it was refreshed since.
SELECT true FROM sessions WHERE id = $1 AND ended_at IS NULL AND created_at > now() - $2 * interval '1 second'

-- name: sessions_page
SELECT id, org_id, scopes, address, user_agent, created_at, last_used_at, expires_at FROM sessions
WHERE user_id = $1 AND id < $2 AND ended_at IS NULL AND expires_at > now() ORDER BY id DESC LIMIT $3

-- name: sessions_of_organization
-- Those of the members of the organization $1, used last first.
SELECT session.user_id, session.address, session.user_agent, session.last_used_at, session.expires_at
FROM memberships JOIN sessions session USING (user_id)
WHERE memberships.org_id = $1 AND session.ended_at IS NULL AND session.expires_at > now()
ORDER BY session.last_used_at DESC LIMIT $2

-- name: sessions_start
-- Start the session $1 of the user $2, in the organization $3 or else the first one, with the refresh token of digest $7,
-- begun at the provider $9 with an address of the domain $10, where it was begun elsewhere.
-- The user's row is locked, so that a password that is being changed, or a user who is being disabled, comes before or after.
WITH person AS (
    SELECT id, email, status = 'active' AS active FROM users WHERE id = $2 AND status <> 'disabled' FOR SHARE),
place AS (
    SELECT org_id, role FROM memberships WHERE user_id = $2 AND ($3::text IS NULL OR org_id = $3)
    ORDER BY created_at, org_id LIMIT 1),
made AS (
    INSERT INTO sessions (id, user_id, org_id, scopes, address, user_agent, expires_at, provider, domain)
    SELECT $1, id, (SELECT org_id FROM place), $4, $5, $6, now() + $8 * interval '1 second', $9, $10 FROM person
    RETURNING id, expires_at),
token AS (
    INSERT INTO refresh_tokens (digest, session_id, expires_at) SELECT $7, id, expires_at FROM made)
SELECT person.id AS user_id, person.email, person.active, made.id AS session_id, $4::text[] AS scopes, place.org_id, place.role,
    extract(epoch FROM now())::float8 AS issued_at, extract(epoch FROM made.expires_at)::float8 AS ends_at
FROM person CROSS JOIN made LEFT JOIN place ON true

-- name: subjects_link
INSERT INTO user_identities (issuer, subject, user_id, email) VALUES ($1, $2, $3, $4)

-- name: subjects_lock
-- Lock the subject $2 of the issuer $1, so that one transaction at a time makes or links it.
SELECT pg_advisory_xact_lock(hashtextextended($1 || chr(10) || $2, 0))

-- name: subjects_user
SELECT user_id FROM user_identities WHERE issuer = $1 AND subject = $2

-- name: tokens_revoke
-- Refuse the token of the id $1 of the user $2, or of all where that is empty, for the reason $3 and for $4 seconds; no row
-- for a user who has $5 such rows already.
INSERT INTO revoked_tokens (jti, user_id, reason, expires_at)
SELECT $1, $2, $3, now() + $4 * interval '1 second'
WHERE $2 = '' OR (SELECT count(*) FROM revoked_tokens WHERE user_id = $2) < $5
ON CONFLICT (jti, user_id) DO UPDATE SET expires_at = excluded.expires_at
RETURNING jti

-- name: tokens_valid_from
-- From now on no token of the user $1 is taken that was issued before.
UPDATE users SET tokens_valid_from = now() WHERE id = $1

-- name: totp_confirm
UPDATE users SET totp_confirmed_at = now(), totp_last_step = $3
WHERE id = $1 AND totp_secret = $2 AND totp_confirmed_at IS NULL RETURNING id

-- name: totp_disable
UPDATE users SET totp_secret = NULL, totp_confirmed_at = NULL, totp_last_step = NULL WHERE id = $1 RETURNING id

-- name: totp_enrol
-- Store a new secret, unless one is confirmed.
UPDATE users SET totp_secret = $2, totp_last_step = NULL WHERE id = $1 AND totp_confirmed_at IS NULL RETURNING id

-- name: totp_step
-- Use up the code of a step, and those of earlier steps; the secret is stored as $3 from now on.
UPDATE users SET totp_last_step = $2, totp_secret = $3
WHERE id = $1 AND totp_confirmed_at IS NOT NULL AND (totp_last_step IS NULL OR totp_last_step < $2) RETURNING id

-- name: tries_forget
WITH old AS (
    SELECT subject FROM sign_in_tries WHERE updated_at < now() - interval '1 day' LIMIT $1 FOR UPDATE SKIP LOCKED
), gone AS (DELETE FROM sign_in_tries USING old WHERE sign_in_tries.subject = old.subject RETURNING 1)
SELECT count(*) FROM gone

-- name: tries_forgive
DELETE FROM sign_in_tries WHERE subject = $1

-- name: tries_take
-- Count a try before it is looked at, so that many at once are counted, too. From the $2th that did not succeed on, the
-- next has to wait, $3 seconds and twice as long each time, $4 at most; a day without one forgets them. No row: it waits.
INSERT INTO sign_in_tries AS t (subject, failures) VALUES ($1, 1)
ON CONFLICT (subject) DO UPDATE SET
    failures = CASE WHEN t.updated_at < now() - interval '1 day' THEN 1 ELSE least(t.failures + 1, 1000000) END,
    blocked_until = CASE
        WHEN t.updated_at < now() - interval '1 day' OR t.failures + 1 < $2 THEN '-infinity'
        ELSE now() + least($4, $3 * 2.0 ^ least(t.failures + 1 - $2, 30)) * interval '1 second'
    END,
    updated_at = now()
WHERE t.blocked_until <= now()
RETURNING failures

-- name: tries_undo
-- Take back a try of subject $1 that has succeeded; others stay counted. $2 is from when on one has to wait.
UPDATE sign_in_tries SET failures = greatest(failures - 1, 0),
    blocked_until = CASE WHEN failures - 1 < $2 THEN '-infinity' ELSE blocked_until END
WHERE subject = $1

-- name: tries_wait
SELECT greatest(1, ceil(extract(epoch FROM blocked_until - now())))::integer FROM sign_in_tries WHERE subject = $1

-- name: users_by_email
SELECT * FROM users WHERE email = $1

-- name: users_email
-- Change a user's address to one that is proven; a user who waited for that alone becomes active ($3).
UPDATE users SET email = $2, email_verified_at = now(),
    status = CASE WHEN $3 AND status = 'pending' THEN 'active' ELSE status END
WHERE id = $1 RETURNING *

-- name: users_enabled
SELECT status <> 'disabled' FROM users WHERE id = $1

-- name: users_end_sessions
-- End all sessions and tokens of a user, those of other issuers that were issued before now included. API keys stay.
WITH dated AS (
    UPDATE users SET tokens_valid_from = now() WHERE id = $1
)
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE user_id = $1 AND ended_at IS NULL

-- name: users_get
SELECT * FROM users WHERE id = $1

-- name: users_known_network
-- Whether who owns an address ($1) has signed in from a network ($2) of late.
SELECT EXISTS (
    SELECT FROM users JOIN sessions ON sessions.user_id = users.id
    WHERE users.email = $1 AND sessions.address = $2 AND sessions.created_at > now() - interval '90 days'
)

-- name: users_lock
SELECT * FROM users WHERE id = $1 FOR UPDATE

-- name: users_organizations
SELECT o.id, o.slug, o.name, o.personal, o.account_id, m.role
FROM memberships m JOIN organizations o ON o.id = m.org_id
WHERE m.user_id = $1 ORDER BY m.created_at, o.id LIMIT $2

-- name: users_page
SELECT * FROM users WHERE id < $1 AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR email = $4)
ORDER BY id DESC LIMIT $2

-- name: users_password
UPDATE users SET password_hash = $2 WHERE id = $1 RETURNING *

-- name: users_register
-- Add a pending user; no row where a user has the address.
INSERT INTO users (id, email, name, password_hash, status, email_verified_at)
VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 AND $2::text IS NOT NULL THEN now() END)
ON CONFLICT (email) DO NOTHING
RETURNING *

-- name: users_revoke_keys
-- Revoke every key of a user.
UPDATE api_keys SET revoked_at = now(), version = version + 1
WHERE user_id = $1 AND (revoked_at IS NULL OR revoked_at > now())
RETURNING id, account_id, prefix

-- name: users_signed_in
-- Note a sign-in; a password under other parameters ($3) replaces the same one ($2), unless that was changed meanwhile.
UPDATE users SET last_sign_in_at = now(),
    password_hash = CASE WHEN $3::text IS NOT NULL AND password_hash = $2 THEN $3 ELSE password_hash END
WHERE id = $1

-- name: users_unproven
-- Take the address $1, which somebody else has proven, from the user who registered it without proving it.
UPDATE users SET email = NULL WHERE email = $1 AND email_verified_at IS NULL RETURNING id

-- name: users_update
UPDATE users SET name = $2, status = $3, operator = $4, tz = $5 WHERE id = $1 RETURNING *

-- name: users_verified
-- Note that a user's address is proven. A user who waited for that alone becomes active ($3); the password becomes that of the person who proved it.
UPDATE users SET email_verified_at = coalesce(email_verified_at, now()), password_hash = $2, name = coalesce($4, name),
    status = CASE WHEN $3 AND status = 'pending' THEN 'active' ELSE status END
WHERE id = $1 RETURNING *

-- name: users_zone
SELECT tz FROM users WHERE id = $1

-- name: welcome_mailbox
-- Who is welcomed at the mailbox $1: the user $2, unless somebody was before.
INSERT INTO welcomed_mailboxes (mailbox, user_id) VALUES ($1, $2)
ON CONFLICT (mailbox) DO UPDATE SET user_id = welcomed_mailboxes.user_id RETURNING user_id

-- name: welcome_account
-- The account $2 of an organization that a person who has proven their address owns, with the address; null: of their first.
SELECT organizations.account_id, users.email FROM users
JOIN memberships ON memberships.user_id = users.id AND memberships.role = 'owner'
JOIN organizations ON organizations.id = memberships.org_id
WHERE users.id = $1 AND users.email_verified_at IS NOT NULL AND users.status <> 'disabled'
    AND ($2::text IS NULL OR organizations.account_id = $2)
ORDER BY organizations.id LIMIT 1
