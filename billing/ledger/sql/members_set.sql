-- Set a user's quotas. `since` stays where the user had quotas before; the version is the account's after this change.
INSERT INTO member_limits (account_id, user_id, quotas, since) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id, user_id) DO UPDATE SET quotas = excluded.quotas, updated_at = now()
