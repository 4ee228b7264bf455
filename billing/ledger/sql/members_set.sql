-- `since` stays where the user had quotas already. The account's version is the one that this change has raised it to.
INSERT INTO member_limits (account_id, user_id, quotas, since) VALUES ($1, $2, $3, $4)
ON CONFLICT (account_id, user_id) DO UPDATE SET quotas = excluded.quotas, updated_at = now()
