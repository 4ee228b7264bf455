-- Coupons, auto-recharge, and who is told that a balance is low.

CREATE TABLE coupons (
    id text PRIMARY KEY,
    name text NOT NULL,
    code_sha256 bytea NOT NULL UNIQUE,
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 9007199254740991),
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    credit_days integer CHECK (credit_days > 0),
    expires_at timestamptz,
    most_redemptions integer CHECK (most_redemptions > 0),
    redemptions integer NOT NULL DEFAULT 0 CHECK (redemptions <= most_redemptions),
    created_at timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);
COMMENT ON COLUMN coupons.code_sha256 IS 'Of the code in capitals, without spaces and hyphens.';
COMMENT ON COLUMN coupons.credit_days IS 'For how many days the credit lasts after it was redeemed; null: for ever.';
COMMENT ON COLUMN coupons.expires_at IS 'Until when it can be redeemed; null: for ever.';

CREATE TABLE coupon_redemptions (
    coupon_id text NOT NULL REFERENCES coupons,
    account_id text NOT NULL REFERENCES accounts,
    transfer_id text NOT NULL,
    redeemed_by text NOT NULL,
    redeemed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (coupon_id, account_id)
);

CREATE TABLE auto_recharges (
    account_id text PRIMARY KEY REFERENCES accounts,
    enabled boolean NOT NULL,
    threshold_nano bigint NOT NULL CHECK (threshold_nano >= 0),
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    monthly_cap_cents bigint NOT NULL CHECK (monthly_cap_cents >= amount_cents),
    state text NOT NULL CHECK (state IN ('off', 'ready', 'charging', 'waiting', 'capped', 'stopped')),
    reason text,
    url text,
    attempt integer NOT NULL DEFAULT 0,
    declines integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (state = 'charging' OR enabled = (state IN ('ready', 'waiting', 'capped')))
);
CREATE INDEX auto_recharges_under_way ON auto_recharges (account_id) WHERE state IN ('ready', 'waiting', 'capped', 'charging');
CREATE INDEX orders_recharges ON orders (account_id, created_at) WHERE kind = 'recharge';
COMMENT ON COLUMN auto_recharges.attempt IS
    'Counted on before anything is asked of the provider: the order of a charge is named by it, so that one that was broken off is taken up again and never made twice.';
COMMENT ON COLUMN auto_recharges.declines IS 'Since the last charge that succeeded.';
COMMENT ON COLUMN auto_recharges.next_attempt_at IS 'Nothing is looked at, or charged, before.';

CREATE TABLE balance_alerts (
    account_id text PRIMARY KEY REFERENCES accounts,
    threshold_nano bigint CHECK (threshold_nano >= 0),
    armed boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN balance_alerts.threshold_nano IS 'Below this the account is told; null: the default of the configuration.';
COMMENT ON COLUMN balance_alerts.armed IS 'Whether it was above since it was last told.';
