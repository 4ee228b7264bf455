-- How often an invitation was sent, which is bounded; and the keys of one member.
ALTER TABLE invitations ADD COLUMN sends integer NOT NULL DEFAULT 1;
CREATE INDEX api_keys_user ON api_keys (account_id, user_id);
