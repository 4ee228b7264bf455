-- Notices: what customers and operators are told of, written in the transaction of what it tells, and where it goes: mails
-- (mail_outbox), the endpoints of customers and operators, and NOTIFICATION_WEBHOOK.

CREATE TABLE notices (
    id text PRIMARY KEY DEFAULT 'ntc_' || replace(gen_random_uuid()::text, '-', ''),
    account_id text NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    once text,
    created_at timestamptz NOT NULL DEFAULT now(),
    handed_out_at timestamptz,
    UNIQUE (account_id, type, once)
);
CREATE INDEX notices_waiting ON notices (created_at, id) WHERE handed_out_at IS NULL;
CREATE INDEX notices_age ON notices (created_at);
COMMENT ON COLUMN notices.account_id IS 'Whom it is about. No foreign key: it would lock the row of the account, which requests wait for.';
COMMENT ON COLUMN notices.once IS 'What happened, by its own id: told once, however often the event that tells of it comes. Null: each time.';
COMMENT ON COLUMN notices.handed_out_at IS 'When its mails and deliveries were written.';

CREATE TABLE webhook_endpoints (
    id text PRIMARY KEY,
    account_id text REFERENCES accounts,
    url text NOT NULL,
    secret text NOT NULL,
    old_secret text,
    old_secret_until timestamptz,
    types text[],
    description text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    failing_since timestamptz,
    disabled_at timestamptz,
    disabled_reason text
);
CREATE INDEX webhook_endpoints_account ON webhook_endpoints (account_id, created_at);
COMMENT ON COLUMN webhook_endpoints.account_id IS 'Whose notices it gets; null: those of all accounts, as operators do.';
COMMENT ON COLUMN webhook_endpoints.secret IS 'What deliveries are signed with (HMAC needs it whole); shown once.';
COMMENT ON COLUMN webhook_endpoints.old_secret IS 'The one before a rotation: signs, too, until old_secret_until.';
COMMENT ON COLUMN webhook_endpoints.types IS 'Which notices it gets; null: all.';
COMMENT ON COLUMN webhook_endpoints.failing_since IS 'The first failure since a delivery last succeeded.';

CREATE TABLE webhook_deliveries (
    id text PRIMARY KEY DEFAULT 'whd_' || replace(gen_random_uuid()::text, '-', ''),
    notice_id text NOT NULL REFERENCES notices ON DELETE CASCADE,
    endpoint_id text REFERENCES webhook_endpoints ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    parked_at timestamptz,
    status integer,
    error text
);
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (next_attempt_at, id)
    WHERE delivered_at IS NULL AND parked_at IS NULL;
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, created_at, id);
CREATE INDEX webhook_deliveries_notice ON webhook_deliveries (notice_id);
COMMENT ON COLUMN webhook_deliveries.endpoint_id IS 'Where to; null: NOTIFICATION_WEBHOOK.';
COMMENT ON COLUMN webhook_deliveries.parked_at IS 'When it was given up; it can be delivered by hand.';
COMMENT ON COLUMN webhook_deliveries.status IS 'What the last answer said, where there was one.';
