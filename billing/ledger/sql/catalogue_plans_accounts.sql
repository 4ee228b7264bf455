-- Accounts on a plan that has changed; with $2 also those on a plan that is not among $3, to whom the default applies.
WITH touched AS (
    SELECT id FROM accounts
    WHERE plan = ANY ($1::text[]) OR ($2::boolean AND NOT plan = ANY ($3::text[]))
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE accounts SET version = version + 1 FROM touched WHERE accounts.id = touched.id
RETURNING accounts.id
