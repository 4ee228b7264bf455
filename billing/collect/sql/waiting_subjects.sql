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
