-- People and organizations: who signs in, what they may do where, and what of them is waiting (codes, mails, invitations).
-- Secrets that people or their clients show are kept as SHA-256 digests only. Addresses are kept in lower case.

CREATE TABLE users (
    id text PRIMARY KEY,
    email text NOT NULL UNIQUE CHECK (email = lower(email)),
    email_verified_at timestamptz,
    name text NOT NULL DEFAULT '',
    password_hash text,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'active', 'disabled')),
    operator boolean NOT NULL DEFAULT false,
    totp_secret text,
    totp_confirmed_at timestamptz,
    totp_last_step bigint,
    tokens_valid_from timestamptz NOT NULL DEFAULT '-infinity',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_sign_in_at timestamptz
);
COMMENT ON COLUMN users.status IS 'pending: registered, and not let in yet by the approval policy.';
COMMENT ON COLUMN users.totp_last_step IS 'The last time step whose code was taken: no code is taken twice (RFC 6238, 5.2).';
COMMENT ON COLUMN users.tokens_valid_from IS 'Tokens that were issued before are refused: all were revoked, or the password changed.';

CREATE TABLE user_identities (
    issuer text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL REFERENCES users,
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX user_identities_user ON user_identities (user_id);
COMMENT ON TABLE user_identities IS 'Whom other issuers sign in: by (issuer, subject), never by an address.';

CREATE TABLE recovery_codes (
    user_id text NOT NULL REFERENCES users,
    digest bytea NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (user_id, digest)
);

CREATE TABLE one_time_codes (
    id text PRIMARY KEY,
    email text NOT NULL,
    purpose text NOT NULL,
    user_id text REFERENCES users,
    digest bytea NOT NULL,
    context jsonb NOT NULL DEFAULT '{}',
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX one_time_codes_of ON one_time_codes (email, purpose, created_at);
CREATE INDEX one_time_codes_expiry ON one_time_codes (expires_at);

CREATE TABLE sessions (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES users,
    kind text NOT NULL DEFAULT 'token' CHECK (kind IN ('token', 'browser')),
    org_id text,
    scopes text[],
    cookie_digest bytea UNIQUE,
    address text,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text
);
CREATE INDEX sessions_user ON sessions (user_id, created_at);
CREATE INDEX sessions_expiry ON sessions (expires_at);
COMMENT ON TABLE sessions IS 'A sign-in: the family of its refresh tokens, or a browser. Ending it ends every token of it.';
COMMENT ON COLUMN sessions.scopes IS 'What its tokens are narrowed to; null: all that the role allows.';

CREATE TABLE refresh_tokens (
    digest bytea PRIMARY KEY,
    session_id text NOT NULL REFERENCES sessions,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    rotated_at timestamptz,
    salt bytea
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
COMMENT ON COLUMN refresh_tokens.salt IS
    'Its successor is the HMAC of this by the token itself: only who has the old one, and this, can tell the new one.';

CREATE TABLE revoked_tokens (
    jti text NOT NULL,
    user_id text NOT NULL,
    reason text,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (jti, user_id)
);
CREATE INDEX revoked_tokens_expiry ON revoked_tokens (expires_at);
CREATE INDEX revoked_tokens_user ON revoked_tokens (user_id);
COMMENT ON COLUMN revoked_tokens.user_id IS 'Whose token it is, by whom it was revoked: it counts for that user alone. Empty: an operator revoked it.';

CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    private_pem text NOT NULL,
    public_jwk jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    active_from timestamptz NOT NULL,
    retired_at timestamptz
);
COMMENT ON COLUMN signing_keys.active_from IS 'From when on it signs; it is published before.';
COMMENT ON COLUMN signing_keys.retired_at IS 'Until when it verifies, once another one signs; its private part is gone then.';

CREATE TABLE organizations (
    id text PRIMARY KEY,
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 63),
    name text NOT NULL,
    personal boolean NOT NULL DEFAULT false,
    account_id text NOT NULL UNIQUE REFERENCES accounts,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE memberships (
    org_id text NOT NULL REFERENCES organizations,
    user_id text NOT NULL REFERENCES users,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE invitations (
    id text PRIMARY KEY,
    org_id text NOT NULL REFERENCES organizations,
    email text NOT NULL CHECK (email = lower(email)),
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    digest bytea NOT NULL UNIQUE,
    invited_by text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX invitations_org ON invitations (org_id, created_at);

CREATE TABLE mail_outbox (
    id text PRIMARY KEY,
    recipient text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    failed_at timestamptz,
    error text
);
CREATE INDEX mail_outbox_waiting ON mail_outbox (next_attempt_at) WHERE sent_at IS NULL AND failed_at IS NULL;
COMMENT ON TABLE mail_outbox IS 'Mails, written in the transaction of what they tell. Their text is removed once they are sent.';

-- The audit log also says from where, by which request, and whose affair it was: customers see their own.
ALTER TABLE audit_log ADD COLUMN address text, ADD COLUMN request_id text, ADD COLUMN account_id text, ADD COLUMN user_id text;
CREATE INDEX audit_log_account ON audit_log (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_log_user ON audit_log (user_id, id) WHERE user_id IS NOT NULL;
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A rotated key keeps the secret before it for a while.
ALTER TABLE api_keys ADD COLUMN previous_sha256 bytea UNIQUE, ADD COLUMN previous_until timestamptz;
