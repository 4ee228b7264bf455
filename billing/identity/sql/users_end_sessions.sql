-- Everything that a user is signed in with ends; API keys stay. Tokens of other issuers end, too, that were issued before.
WITH dated AS (
    UPDATE users SET tokens_valid_from = now() WHERE id = $1
)
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE user_id = $1 AND ended_at IS NULL
