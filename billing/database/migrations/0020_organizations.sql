-- How often an invitation was sent, which is bounded.
ALTER TABLE invitations ADD COLUMN sends integer NOT NULL DEFAULT 1;
