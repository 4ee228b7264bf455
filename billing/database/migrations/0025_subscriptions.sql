-- Subscriptions as they were last seen at the payment provider, what they have come to for each account, and the units of
-- features that accounts have used in the periods of their plans.

CREATE TABLE subscriptions (
    provider text NOT NULL,
    id text NOT NULL,
    account_id text NOT NULL REFERENCES accounts,
    status text NOT NULL,
    plan text,
    next_plan text,
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL,
    ends_at timestamptz,
    past_due_since timestamptz,
    asked bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, id)
);
CREATE INDEX subscriptions_account ON subscriptions (account_id, created_at);
CREATE INDEX subscriptions_past_due ON subscriptions (past_due_since) WHERE past_due_since IS NOT NULL;
COMMENT ON COLUMN subscriptions.plan IS 'Ours of that price; null: the price is of no plan, and was never of one.';
COMMENT ON COLUMN subscriptions.past_due_since IS 'When we first saw that it is not paid, while it is not.';
COMMENT ON COLUMN subscriptions.asked IS 'Counted on before each change that we ask for: part of its idempotency key.';

CREATE TABLE account_plans (
    account_id text PRIMARY KEY REFERENCES accounts,
    plan text NOT NULL,
    standing text NOT NULL CHECK (standing IN ('none', 'active', 'past_due', 'downgraded')),
    ends_at timestamptz,
    next_plan text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE account_plans IS
    'What the subscriptions of an account came to last. Its plan is changed when this changes, so that a plan that an '
    'operator gives it stays until then.';

CREATE TABLE feature_units (
    account_id text NOT NULL REFERENCES accounts,
    feature text NOT NULL,
    period_start timestamptz NOT NULL,
    used bigint NOT NULL CHECK (used >= 0),
    PRIMARY KEY (account_id, feature, period_start)
);

CREATE TABLE feature_events (
    account_id text NOT NULL REFERENCES accounts,
    event_id text NOT NULL,
    feature text NOT NULL,
    units bigint NOT NULL CHECK (units > 0),
    period_start timestamptz NOT NULL,
    used bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, event_id)
);
COMMENT ON TABLE feature_events IS 'Each use of a feature by its event: the same again counts no second time.';
