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
