-- Payments: orders, which are rows before anything is sent to a provider; the last state seen of each of a provider's
-- objects; what refunds and disputes have moved; what could not be credited; and the local provider's own objects.

CREATE TABLE orders (
    id text PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    kind text NOT NULL CHECK (kind IN ('credit', 'plan', 'recharge')),
    amount_cents bigint NOT NULL CHECK (amount_cents BETWEEN 1 AND 900719925),
    plan text,
    status text NOT NULL DEFAULT 'open' CHECK (status IN
        ('open', 'paid', 'credited', 'failed', 'expired', 'refunded', 'disputed', 'parked')),
    provider text NOT NULL,
    customer_id text,
    checkout_id text,
    payment_id text,
    subscription_id text,
    url text,
    urls jsonb,
    save_method boolean NOT NULL DEFAULT false,
    expires_at timestamptz,
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    transfer_id text,
    credited_at timestamptz,
    refunded_cents bigint NOT NULL DEFAULT 0 CHECK (refunded_cents >= 0),
    disputed_cents bigint NOT NULL DEFAULT 0,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((plan IS NOT NULL) = (kind = 'plan')),
    UNIQUE (account_id, idempotency_key)
);
COMMENT ON COLUMN orders.amount_cents IS 'What is credited when it is paid, whatever the provider has taken in all.';
COMMENT ON COLUMN orders.credited_at IS 'When its amount was credited, or its plan came into force.';
COMMENT ON COLUMN orders.transfer_id IS 'The transfer that credited it: the purchase of which a refund takes what is left.';
COMMENT ON COLUMN orders.disputed_cents IS 'What disputes have taken and not brought back.';
COMMENT ON COLUMN orders.reason IS 'Why it failed or was parked: a decline code, or a sentence.';
CREATE INDEX orders_account ON orders (account_id, id);
CREATE INDEX orders_status ON orders (status, id);
CREATE INDEX orders_waiting ON orders (expires_at) WHERE status = 'open';
CREATE UNIQUE INDEX orders_payment ON orders (provider, payment_id) WHERE payment_id IS NOT NULL;
CREATE UNIQUE INDEX orders_checkout ON orders (provider, checkout_id) WHERE checkout_id IS NOT NULL;

CREATE TABLE payment_customers (
    account_id text NOT NULL REFERENCES accounts,
    provider text NOT NULL,
    generation integer NOT NULL DEFAULT 1,
    customer_id text,
    method text,
    PRIMARY KEY (account_id, provider)
);
CREATE UNIQUE INDEX payment_customers_id ON payment_customers (provider, customer_id);
COMMENT ON COLUMN payment_customers.generation IS
    'Raised when the provider has lost the customer: the next one is made under another idempotency key.';

CREATE TABLE payment_objects (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    account_id text,
    order_id text,
    asked bigint NOT NULL DEFAULT 0,
    applied bigint NOT NULL DEFAULT 0,
    state jsonb,
    created_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, kind, id)
);
COMMENT ON COLUMN payment_objects.asked IS
    'Counted on before each fetch. An answer is applied only if none was that was asked for later, so that an old state '
    'never follows a newer one.';
CREATE INDEX payment_objects_account ON payment_objects (account_id, kind, created_at);

CREATE TABLE payment_movements (
    provider text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('refund', 'dispute')),
    id text NOT NULL,
    order_id text NOT NULL REFERENCES orders,
    amount_cents bigint NOT NULL,
    moved_nano bigint NOT NULL DEFAULT 0,
    transfers integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, kind, id)
);
COMMENT ON TABLE payment_movements IS
    'What each refund, and each balance movement of a dispute, has taken from the account (moved_nano below zero) or brought.';
CREATE INDEX payment_movements_order ON payment_movements (order_id);

CREATE TABLE payments_parked (
    id text PRIMARY KEY,
    provider text NOT NULL,
    kind text NOT NULL,
    object_id text NOT NULL,
    account_id text,
    order_id text,
    amount_cents bigint NOT NULL CHECK (amount_cents >= 0),
    currency text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'credited', 'dismissed')),
    transfer_id text,
    note text,
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    UNIQUE (provider, kind, object_id)
);
COMMENT ON TABLE payments_parked IS
    'Money that came to sys:stripe and could not be credited: it waits for an operator, who credits or dismisses it.';
CREATE INDEX payments_parked_open ON payments_parked (id) WHERE state = 'parked';

ALTER TABLE installation ADD COLUMN deployment text NOT NULL DEFAULT gen_random_uuid()::text;
COMMENT ON COLUMN installation.deployment IS
    'What tells our objects at a payment provider from those of other installations that share its account.';

-- An account may be suspended for several causes (`operator`, `dispute:ID`) and is active again when none is left.
ALTER TABLE accounts ADD COLUMN suspended_for text[] NOT NULL DEFAULT '{}';
UPDATE accounts SET suspended_for = '{operator}' WHERE status = 'suspended';

-- The local provider: what a provider elsewhere would keep.
CREATE TABLE local_objects (
    kind text NOT NULL,
    id text NOT NULL,
    customer_id text,
    order_id text,
    parent_id text,
    state jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX local_objects_created ON local_objects (kind, created_at);
CREATE INDEX local_objects_order ON local_objects (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX local_objects_parent ON local_objects (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX local_objects_customer ON local_objects (customer_id, kind);

CREATE TABLE local_keys (
    key text PRIMARY KEY,
    digest bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE local_keys IS 'Idempotency keys of calls to the local provider, with what they were answered.';

CREATE TABLE local_pages (
    id_sha256 bytea PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('checkout', 'setup', 'portal')),
    object_id text NOT NULL,
    urls jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE local_pages IS 'Hosted pages, found by an id that only whoever was given the address knows.';
CREATE INDEX local_pages_expiry ON local_pages (expires_at);

CREATE TABLE local_events (
    id text PRIMARY KEY,
    type text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz
);
CREATE INDEX local_events_waiting ON local_events (id) WHERE delivered_at IS NULL;
