-- Signing in: how often mails were asked for from a network, and how often somebody's password or second factor was tried.
ALTER TABLE one_time_codes ADD COLUMN network text;
CREATE INDEX one_time_codes_network ON one_time_codes (network, created_at) WHERE network IS NOT NULL;
COMMENT ON COLUMN one_time_codes.network IS 'Who asked: an IPv4 address, or an IPv6 network of 64 bits.';

CREATE TABLE sign_in_tries (
    subject text PRIMARY KEY,
    failures integer NOT NULL,
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sign_in_tries_age ON sign_in_tries (updated_at);
COMMENT ON TABLE sign_in_tries IS
    'Tries that have not succeeded, by what is guessed at: a password, by the digest of its address, or a second factor.';
CREATE INDEX mail_outbox_done ON mail_outbox (created_at) WHERE sent_at IS NOT NULL OR failed_at IS NOT NULL;
CREATE INDEX mail_outbox_parked ON mail_outbox (created_at) WHERE failed_at IS NOT NULL;
