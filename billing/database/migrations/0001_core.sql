-- The first schema: who pays (accounts, api_keys), what was paid (transfers), what was used (usage_events and its
-- rollups), and how far Redis has seen it (partitions, corrections, the cursors on accounts).
-- Amounts are nano-USD in bigint; |balance| and every amount stay within 2^53 - 1.

CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    redis_partitions integer CHECK (redis_partitions BETWEEN 1 AND 4096)
);
COMMENT ON TABLE installation IS 'One row: what is decided once. redis_partitions is fixed by the first gateway.';
INSERT INTO installation DEFAULT VALUES;

CREATE TABLE partitions (
    p integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    identity text,
    began_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE partitions IS 'The life of the Redis server that holds a partition: numbered, so that an old one is known.';

CREATE TABLE gateways (
    id text PRIMARY KEY,
    lease_until timestamptz NOT NULL
);

CREATE TABLE job_leases (
    name text PRIMARY KEY,
    owner text NOT NULL,
    until timestamptz NOT NULL
);
COMMENT ON TABLE job_leases IS 'Work that one gateway does for all: whoever holds the lease, until then.';

CREATE TABLE plans (
    id text PRIMARY KEY,
    digest text NOT NULL
);
COMMENT ON TABLE plans IS 'What each plan said last, as a digest: a change raises the version of its accounts.';

CREATE TABLE accounts (
    id text PRIMARY KEY,
    name text NOT NULL,
    plan text NOT NULL,
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'past_due', 'suspended', 'closed')),
    past_due_since timestamptz,
    credit_limit_nano bigint NOT NULL DEFAULT 0 CHECK (credit_limit_nano BETWEEN 0 AND 9007199254740991),
    quotas jsonb NOT NULL DEFAULT '[]',
    payment_customer_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    balance_nano bigint NOT NULL DEFAULT 0 CHECK (balance_nano BETWEEN -9007199254740991 AND 9007199254740991),
    version bigint NOT NULL DEFAULT 1,
    pushed_version bigint NOT NULL DEFAULT 1,
    xseq bigint NOT NULL DEFAULT 0,
    pushed_xseq bigint NOT NULL DEFAULT 0,
    hyd_epoch bigint NOT NULL DEFAULT -1
);
CREATE INDEX accounts_unpushed ON accounts (id) WHERE version > pushed_version;
CREATE INDEX accounts_uncorrected ON accounts (id) WHERE xseq > pushed_xseq;
COMMENT ON COLUMN accounts.pushed_xseq IS 'The last correction that Redis was told of, or did not need.';
COMMENT ON COLUMN accounts.pushed_version IS 'The last version that Redis and the gateways were told of.';
COMMENT ON COLUMN accounts.version IS 'Rises with every change of plan, status, credit limit or quotas.';
COMMENT ON COLUMN accounts.xseq IS 'Number of the last correction: a change of the balance that Redis has not made itself.';
COMMENT ON COLUMN accounts.hyd_epoch IS 'The epoch for which Redis was last loaded with this account.';

CREATE TABLE api_keys (
    id text PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    user_id text,
    name text NOT NULL,
    prefix text NOT NULL,
    secret_sha256 bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    models text[],
    quotas jsonb NOT NULL DEFAULT '[]',
    max_parallel_requests integer CHECK (max_parallel_requests > 0),
    tags jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    version bigint NOT NULL DEFAULT 1,
    pushed_version bigint NOT NULL DEFAULT 1
);
CREATE INDEX api_keys_unpushed ON api_keys (id) WHERE version > pushed_version;
CREATE INDEX api_keys_account ON api_keys (account_id, created_at);

CREATE TABLE prices (
    id text PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    effective_from date NOT NULL,
    said text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN prices.said IS 'The row as canonical JSON; the id is a digest of it, so a row never changes.';

CREATE TABLE transfers (
    id text PRIMARY KEY,
    debit_account text NOT NULL,
    credit_account text NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 9007199254740991),
    kind text NOT NULL CHECK (kind IN
        ('usage', 'purchase', 'grant', 'refund', 'adjustment', 'expiry', 'dispute', 'subscription')),
    idempotency_scope text,
    idempotency_key text,
    request_digest bytea,
    request_id text,
    note text,
    metadata jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (debit_account <> credit_account),
    UNIQUE (idempotency_scope, idempotency_key)
);
COMMENT ON TABLE transfers IS
    'Append-only double entry: a row takes from debit_account and gives to credit_account. The id of a usage transfer is '
    'its request id, so that a request is debited at most once. System accounts are named sys:revenue, sys:stripe, '
    'sys:promotions, sys:write_off.';
CREATE INDEX transfers_debit ON transfers (debit_account, id);
CREATE INDEX transfers_credit ON transfers (credit_account, id) WHERE kind <> 'usage';

CREATE TABLE usage_events (
    request_id text NOT NULL,
    admitted_at timestamptz NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('settled', 'expired')),
    account_id text NOT NULL,
    user_id text,
    key_id text NOT NULL,
    client_request_id text,
    upstream_request_id text,
    endpoint text NOT NULL,
    feature text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    provider_model text NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    counts jsonb,
    cost_nano bigint NOT NULL CHECK (cost_nano >= 0),
    charged_nano bigint NOT NULL CHECK (charged_nano BETWEEN 0 AND 9007199254740991),
    price_id text NOT NULL,
    multiplier text,
    markup_scaled bigint NOT NULL,
    estimated boolean NOT NULL,
    status integer NOT NULL,
    stream boolean NOT NULL,
    latency_ms integer,
    ttft_ms integer,
    tags jsonb,
    end_user text,
    note text,
    epoch bigint,
    dseq bigint,
    xseq bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, admitted_at)
) PARTITION BY RANGE (admitted_at);
COMMENT ON COLUMN usage_events.counts IS 'Counts of the classes without a column of their own, by the names in billing/usage.py.';
COMMENT ON COLUMN usage_events.dseq IS 'The place of this debit among those that Redis has counted for its account in its epoch.';
COMMENT ON COLUMN usage_events.xseq IS 'Set when Redis has not counted this debit itself: the number of its correction.';
CREATE INDEX usage_events_account ON usage_events (account_id, admitted_at);
CREATE INDEX usage_events_written ON usage_events USING brin (created_at) WITH (pages_per_range = 32);

CREATE TABLE usage_rollups (
    account_id text NOT NULL,
    granularity smallint NOT NULL CHECK (granularity BETWEEN 0 AND 3),
    bucket timestamptz NOT NULL,
    key_id text NOT NULL,
    model text NOT NULL,
    feature text NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, granularity, bucket, key_id, model, feature)
);
COMMENT ON COLUMN usage_rollups.granularity IS '0 minute, 1 hour, 2 day, 3 month; buckets begin in UTC.';

CREATE TABLE corrections (
    account_id text NOT NULL,
    xseq bigint NOT NULL,
    delta_nano bigint NOT NULL,
    request_id text,
    key_id text,
    admitted_at_ms bigint,
    model text,
    feature text,
    requests bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cost_nano bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, xseq)
);
COMMENT ON TABLE corrections IS
    'Changes of a balance that Redis has not made itself, in the order in which it must be told of them.';

CREATE TABLE debits_set_aside (
    request_id text PRIMARY KEY,
    debit bytea NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE debits_set_aside IS 'Debits that the ledger refused however often: kept for an operator, never blocking the others.';

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE FUNCTION refuse_usage_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed usage_events := OLD;
BEGIN
    -- The one change: a debit that first came by another way learns its place in Redis's sequence.
    IF TG_OP = 'UPDATE' AND OLD.dseq IS NULL THEN
        allowed.epoch := NEW.epoch;
        allowed.dseq := NEW.dseq;
        IF NEW IS NOT DISTINCT FROM allowed THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'usage_events is append-only' USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE ON transfers
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_no_truncate BEFORE TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE ON usage_events
    FOR EACH ROW EXECUTE FUNCTION refuse_usage_change();
CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON usage_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER prices_append_only BEFORE UPDATE OR DELETE ON prices
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE FUNCTION create_usage_months(first date, months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    start date := date_trunc('month', first);
    ends date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('metergate usage months'));
    FOR i IN 1..months LOOP
        ends := start + interval '1 month';
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS %I PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
            'usage_events_' || to_char(start, 'YYYY_MM'), start || ' 00:00:00+00', ends || ' 00:00:00+00');
        start := ends;
    END LOOP;
END $$;
