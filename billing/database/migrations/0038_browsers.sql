-- Browsers: sessions that a cookie shows (`sessions.cookie_digest`), and an operator's without a user, begun by a link.
ALTER TABLE sessions ALTER COLUMN user_id DROP NOT NULL;
ALTER TABLE sessions DROP CONSTRAINT sessions_kind_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_kind_check CHECK (kind IN ('token', 'browser', 'operator'));
ALTER TABLE sessions ADD CONSTRAINT sessions_whose CHECK (user_id IS NOT NULL OR kind = 'operator');
COMMENT ON COLUMN sessions.cookie_digest IS 'SHA-256 of a browser''s cookie; an operator''s without a user is the HMAC of it by the admin key.';

CREATE TABLE operator_links (
    digest bytea PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
COMMENT ON TABLE operator_links IS 'Links that begin an operator''s session once: the HMAC of their secret by the admin key.';
