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
