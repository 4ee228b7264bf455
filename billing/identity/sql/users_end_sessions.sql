-- End all sessions and tokens of a user, those of other issuers that were issued before now included. API keys stay.
WITH dated AS (
    UPDATE users SET tokens_valid_from = now() WHERE id = $1
)
UPDATE sessions SET ended_at = now(), end_reason = $2 WHERE user_id = $1 AND ended_at IS NULL
