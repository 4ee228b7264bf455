-- The schema. Sections in the order in which a reader meets them: the installation, plans and prices, accounts and keys,
-- the ledger, sums of usage, holds, people, payments, notices, work at providers, collected traffic, exports.
--
-- Amounts are nano-USD in bigint; |balance| and every amount stay within 2^53 - 1. Times are timestamptz. Secrets that
-- people or their clients present are stored as SHA-256 digests. Addresses are in lower case.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;


-- INSTALLATION AND GATEWAYS

CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    redis_partitions integer CHECK (redis_partitions BETWEEN 1 AND 4096),
    beat bigint NOT NULL DEFAULT 0,
    deployment text NOT NULL DEFAULT gen_random_uuid()::text,
    cursor_secret bytea NOT NULL DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
);
COMMENT ON TABLE installation IS 'One row: what is decided once. redis_partitions is fixed by the first gateway.';
COMMENT ON COLUMN installation.beat IS
    'Counted on by every gateway each second, and noted in Redis now and then: a ledger that was set back has counted less.';
COMMENT ON COLUMN installation.deployment IS
    'What tells our objects at a payment provider from those of other installations that share its account.';

INSERT INTO installation DEFAULT VALUES;

CREATE TABLE partitions (
    p integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 0,
    identity text,
    began_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE partitions IS 'The life of the Redis server that holds a partition: numbered, so that an old one is known.';

-- What tells this ledger from a copy of it, so that a Redis that knows more than a ledger restored from a backup is
-- found out: the cluster, its timeline (another one after a recovery to a point in time, and after a failover), the
-- database and a table of it (others where a dump was restored). What a managed server does not say is left out.
CREATE FUNCTION ledger_identity() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    cluster text := '';
    timeline text := '';
BEGIN
    BEGIN
        SELECT system_identifier::text INTO cluster FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
        NULL;
    END;
    BEGIN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported
        OR object_not_in_prerequisite_state THEN
        NULL;
    END;
    RETURN concat_ws('.', cluster, timeline,
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'partitions'::regclass::oid);
END $$;

-- Processes that hold and settle. A lease is renewed by giving lease_until another value. Whether it is over is
-- judged by how long that value has stood, by the judge's own clock, and not by the time that it says.
CREATE TABLE gateways (
    id text PRIMARY KEY,
    lease_until timestamptz NOT NULL,
    judged timestamptz,
    ended_at timestamptz,
    layout integer NOT NULL DEFAULT 1
);
COMMENT ON COLUMN gateways.lease_until IS 'Another value with each renewal. The time itself is for people to read.';
COMMENT ON COLUMN gateways.judged IS
    'The lease_until at which other gateways last ended holds of this one. It sees a new value here when it wakes.';
COMMENT ON COLUMN gateways.ended_at IS 'Its process has ended, as it said itself or its supervisor did.';
COMMENT ON COLUMN gateways.layout IS 'The version of the layout in which it keeps accounts and keys in Redis.';

CREATE TABLE job_leases (
    name text PRIMARY KEY,
    owner text NOT NULL,
    until timestamptz NOT NULL
);
COMMENT ON TABLE job_leases IS 'Work that one gateway does for all: whoever holds the lease, until then.';

-- Who changed what, from where, by which request. Customers see the rows of their own account.
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    before jsonb,
    after jsonb,
    address text,
    request_id text,
    account_id text,
    user_id text
);
CREATE INDEX audit_log_account ON audit_log (account_id, id) WHERE account_id IS NOT NULL;
CREATE INDEX audit_log_user ON audit_log (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_log_actor ON audit_log (actor, id);
CREATE INDEX audit_log_action ON audit_log (action, id);
CREATE INDEX audit_log_at ON audit_log USING brin (at) WITH (pages_per_range = 16);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();


-- PLANS AND PRICES

CREATE TABLE plans (
    id text PRIMARY KEY,
    digest text NOT NULL
);
COMMENT ON TABLE plans IS 'What each plan said last, as a digest: a change raises the version of its accounts.';

-- Files of plans. That of the highest revision is in force for all gateways, also while a release with another file
-- rolls out.
CREATE TABLE plan_revisions (
    revision bigint PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    version integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    said jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN plan_revisions.version IS 'What the file says of itself: `version` in plans.yaml, 0 where it says nothing.';

-- Every price row that was ever in force. A row never changes.
CREATE TABLE prices (
    id text PRIMARY KEY,
    provider text NOT NULL,
    model text NOT NULL,
    effective_from date NOT NULL,
    said text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN prices.said IS 'The row as canonical JSON; the id is a digest of it, so a row never changes.';
CREATE TRIGGER prices_append_only BEFORE UPDATE OR DELETE ON prices
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER prices_no_truncate BEFORE TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();


-- ACCOUNTS, KEYS AND CREDIT

-- Who pays. A balance changes with every batch of debits: fillfactor leaves room for the new row in its page, so that
-- no index changes. An account may be suspended for several causes (`operator`, `dispute:ID`), and is active again when
-- none is left.
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
    hyd_epoch bigint NOT NULL DEFAULT -1,
    tz text,
    suspended_for text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 60);
COMMENT ON COLUMN accounts.pushed_xseq IS 'The last correction that Redis was told of, or did not need.';
COMMENT ON COLUMN accounts.pushed_version IS 'The last version that Redis and the gateways were told of.';
COMMENT ON COLUMN accounts.version IS 'Rises with every change of plan, status, credit limit or quotas.';
COMMENT ON COLUMN accounts.xseq IS 'Number of the last correction: a change of the balance that Redis has not made itself.';
COMMENT ON COLUMN accounts.hyd_epoch IS 'The epoch for which Redis was last loaded with this account.';
COMMENT ON COLUMN accounts.tz IS 'The IANA time zone in which days and months of reports begin; null: UTC.';
CREATE INDEX accounts_named ON accounts (lower(name) text_pattern_ops);
CREATE INDEX accounts_begins ON accounts (id text_pattern_ops);
CREATE INDEX accounts_unpushed ON accounts (id) WHERE version > pushed_version;
CREATE INDEX accounts_uncorrected ON accounts (id) WHERE xseq > pushed_xseq;

-- API keys. After a rotation the previous secret stays valid until previous_until.
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
    pushed_version bigint NOT NULL DEFAULT 1,
    previous_sha256 bytea UNIQUE,
    previous_until timestamptz,
    default_tool_calls integer CHECK (default_tool_calls > 0),
    CONSTRAINT api_keys_expires_at_finite CHECK (isfinite(expires_at))
);
CREATE INDEX api_keys_named ON api_keys (lower(name) text_pattern_ops);
CREATE INDEX api_keys_begins ON api_keys (id text_pattern_ops);
CREATE INDEX api_keys_unpushed ON api_keys (id) WHERE version > pushed_version;
CREATE INDEX api_keys_account ON api_keys (account_id, created_at);
CREATE INDEX api_keys_user ON api_keys (account_id, user_id) WHERE user_id IS NOT NULL;

-- Quotas of a user in an account, counted over all of the user's keys in it. A row without quotas is deleted.
CREATE TABLE member_limits (
    account_id text NOT NULL REFERENCES accounts (id),
    user_id text NOT NULL CHECK (user_id <> ''),
    quotas jsonb NOT NULL CHECK (jsonb_array_length(quotas) > 0),
    since bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, user_id)
);
COMMENT ON COLUMN member_limits.since IS
    'The version of the account from which on the user has had quotas without a break: what Redis counted before is not all.';

-- Credit in lots: each raise of a balance is one, with what is left of it.
CREATE TABLE lots (
    id text PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    kind text NOT NULL CHECK (kind IN ('purchase', 'grant', 'refund', 'adjustment', 'dispute', 'subscription')),
    transfer_id text,
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 9007199254740991),
    left_nano bigint NOT NULL,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    promotional boolean NOT NULL,
    expires_at timestamptz,
    expired_nano bigint NOT NULL DEFAULT 0 CHECK (expired_nano >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (left_nano BETWEEN 0 AND amount_nano),
    CONSTRAINT lots_expires_at_finite CHECK (isfinite(expires_at))
);
COMMENT ON TABLE lots IS
    'Raises of balances. No debit touches a lot: left_nano is as of the last change of the account''s lots, and lots_now '
    'has what it is now.';
COMMENT ON COLUMN lots.priority IS 'Lots of a lower number are drawn first.';
CREATE INDEX lots_account ON lots (account_id, id);
CREATE INDEX lots_open ON lots (account_id) WHERE left_nano > 0;
CREATE INDEX lots_expiring ON lots (expires_at) WHERE left_nano > 0 AND expires_at IS NOT NULL;
CREATE INDEX lots_transfer ON lots (transfer_id) WHERE transfer_id IS NOT NULL;

-- The lots that were not empty at the last change, with what is left now. Since then the balance has only been debited, so
-- what the lots have above it is what debits have taken; they draw in the order of the window. Below zero is debt, and then
-- nothing is left. Every window is by account, so that a condition on it is applied first.
CREATE VIEW lots_now AS
SELECT ordered.*, left_nano - greatest(0, least(left_nano, drawn_nano - before_nano)) AS left_now
FROM (
    SELECT lots.*,
        sum(left_nano) OVER (PARTITION BY account_id) - greatest(accounts.balance_nano, 0) AS drawn_nano,
        sum(left_nano) OVER (
            PARTITION BY account_id ORDER BY priority, expires_at NULLS LAST, promotional DESC, lots.created_at, lots.id
        ) - left_nano AS before_nano
    FROM lots JOIN accounts ON accounts.id = lots.account_id
    WHERE left_nano > 0
) AS ordered;

-- Codes that give credit.
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
    disabled_at timestamptz,
    CONSTRAINT coupons_expires_at_finite CHECK (isfinite(expires_at))
);
COMMENT ON COLUMN coupons.code_sha256 IS 'Of the code in capitals, without spaces and hyphens.';
COMMENT ON COLUMN coupons.credit_days IS 'For how many days the credit lasts after it was redeemed; null: for ever.';
COMMENT ON COLUMN coupons.expires_at IS 'Until when it can be redeemed; null: for ever.';

-- Each account redeems a coupon once.
CREATE TABLE coupon_redemptions (
    coupon_id text NOT NULL REFERENCES coupons,
    account_id text NOT NULL REFERENCES accounts,
    transfer_id text NOT NULL,
    redeemed_by text NOT NULL,
    redeemed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (coupon_id, account_id)
);

CREATE TABLE welcomed_mailboxes (
    mailbox bytea PRIMARY KEY,
    user_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE welcomed_mailboxes IS 'Who was given welcome credit at which mailbox, by its SHA-256; never deleted, so that it is given once.';

-- Who owned an account when it redeemed a coupon: whoever gives the organization away has had the coupon all the same.
CREATE TABLE coupon_owners (
    coupon_id text NOT NULL,
    user_id text NOT NULL,
    account_id text NOT NULL,
    PRIMARY KEY (coupon_id, user_id, account_id),
    FOREIGN KEY (coupon_id, account_id) REFERENCES coupon_redemptions
);


-- THE LEDGER

-- Usage has no idempotency key, because the request id is its own: transfers_idempotency leaves it out, so that it is
-- not written for every debit.
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
    CHECK (debit_account <> credit_account)
);
COMMENT ON TABLE transfers IS
    'Append-only double entry: a row takes from debit_account and gives to credit_account. The id of a usage transfer is '
    'its request id, so that a request is debited at most once. System accounts are named sys:revenue, sys:stripe, '
    'sys:promotions, sys:write_off.';
CREATE INDEX transfers_debit ON transfers (debit_account, id);
CREATE INDEX transfers_credit ON transfers (credit_account, id) WHERE kind <> 'usage';
CREATE UNIQUE INDEX transfers_idempotency ON transfers (idempotency_scope, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX transfers_repriced ON transfers (request_id) WHERE idempotency_scope = 'reprice';
CREATE INDEX transfers_debit_other ON transfers (debit_account, id) WHERE kind <> 'usage';
CREATE INDEX transfers_returned ON transfers (created_at) WHERE kind IN ('refund', 'adjustment');
CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE ON transfers
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_no_truncate BEFORE TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Numbers are drawn in a transaction and seen when it is committed, so that a lower one may appear after a higher one. A
-- reader (an export) waits for all transactions that may have drawn a number up to some point; it knows them by their ids.
-- So a transaction gets its id before it draws a number (usage_events.wseq).
CREATE SEQUENCE usage_written;
GRANT USAGE, SELECT ON SEQUENCE usage_written TO PUBLIC;  -- so that whoever may write events still may

-- One row for each request that was charged, or whose hold expired. Partitioned by month.
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
    by_model jsonb,
    wseq bigint DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('usage_written') END,
    session text,
    agent text,
    parent_agent text,
    tool text,
    tool_version text,
    attempts integer NOT NULL DEFAULT 1,
    PRIMARY KEY (request_id, admitted_at)
) PARTITION BY RANGE (admitted_at);
COMMENT ON COLUMN usage_events.counts IS 'Counts of the classes without a column of their own, by the names in billing/usage.py.';
COMMENT ON COLUMN usage_events.dseq IS 'The place of this debit among those that Redis has counted for its account in its epoch.';
COMMENT ON COLUMN usage_events.xseq IS 'Set when Redis has not counted this debit itself: the number of its correction.';
COMMENT ON COLUMN usage_events.by_model IS
    'Where several models used something: a list of {model, price_id, variant, counts}. The columns are their totals.';
COMMENT ON COLUMN usage_events.wseq IS 'Its place among all that were written, for exports.';
COMMENT ON COLUMN usage_events.session IS 'The conversation that the request belongs to, as its client names it.';
COMMENT ON COLUMN usage_events.agent IS 'Which of several agents of a session has sent it; parent_agent has begun that one.';
COMMENT ON COLUMN usage_events.tool IS 'One of the tools and libraries that gateways know by their headers.';
COMMENT ON COLUMN usage_events.attempts IS 'At providers, until one answered.';
CREATE INDEX usage_events_account ON usage_events (account_id, admitted_at);
CREATE INDEX usage_events_admitted ON usage_events (admitted_at);
CREATE INDEX usage_events_written ON usage_events USING brin (created_at) WITH (pages_per_range = 32);
CREATE INDEX usage_events_wseq ON usage_events (wseq) WHERE wseq IS NOT NULL;
CREATE INDEX usage_events_apart ON usage_events (admitted_at)
    WHERE estimated OR outcome = 'expired' OR price_id IN ('', 'named');

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

CREATE TRIGGER usage_events_append_only BEFORE UPDATE OR DELETE ON usage_events
    FOR EACH ROW EXECUTE FUNCTION refuse_usage_change();
CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON usage_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- TRUNCATE of a partition fires no trigger of the table that it belongs to: each month has one of its own. A month is
-- still dropped as a whole once its sums are proved.
CREATE FUNCTION refuse_truncate_of(month regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- Made once: making it again would wait for whoever writes to the month.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = month AND tgname = 'usage_events_no_truncate') THEN
        EXECUTE format('CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', month);
    END IF;
END $$;

-- Make partitions for a number of months. Run after every migration, and by gateways ahead of time.
CREATE FUNCTION create_usage_months(first date, months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    start date := date_trunc('month', first);
    ends date;
    month text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('metergate usage months'));
    FOR i IN 1..months LOOP
        ends := start + interval '1 month';
        month := 'usage_events_' || to_char(start, 'YYYY_MM');
        EXECUTE format(
            'CREATE TABLE IF NOT EXISTS %I PARTITION OF usage_events FOR VALUES FROM (%L) TO (%L)',
            month, start || ' 00:00:00+00', ends || ' 00:00:00+00');
        PERFORM refuse_truncate_of(month::regclass);
        start := ends;
    END LOOP;
END $$;

-- What the events of a dropped month came to, so that transfers and rollups, which stay, can still be proved.
CREATE TABLE usage_months_dropped (
    month date NOT NULL,
    account_id text NOT NULL,
    requests bigint NOT NULL,
    counted_nano numeric NOT NULL,
    charges bigint NOT NULL,
    charged_nano numeric NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (month, account_id)
);
COMMENT ON COLUMN usage_months_dropped.requests IS 'Events that the rollups count; counted_nano is what they were charged.';
COMMENT ON COLUMN usage_months_dropped.charges IS 'Events that have a transfer; charged_nano is the sum of these.';

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
    created_at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL DEFAULT 'debit' CHECK (kind IN ('debit', 'entry'))
);
COMMENT ON TABLE debits_set_aside IS 'Debits that the ledger refused however often: kept for an operator, never blocking the others.';
COMMENT ON COLUMN debits_set_aside.kind IS
    'What the bytes in `debit` are: a debit as the journal has it in its entries, or a whole entry.';


-- SUMS OF USAGE

-- Debits reach the sums by way of this table: to write one is a row appended here, in the debit's own transaction. Rows
-- are moved in the background, so that a sum is raised once for many of them. What was used is always the sums and the
-- fresh rows together, read in one statement.
CREATE TABLE usage_fresh (
    admitted_at timestamptz NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano bigint NOT NULL,
    charged_nano bigint NOT NULL,
    account_id text NOT NULL,
    key_id text NOT NULL,
    model text NOT NULL,
    feature text NOT NULL,
    user_id text,
    provider text NOT NULL,
    endpoint text NOT NULL,
    tags jsonb,
    -- So that every sum fits, and no row can ever stop those behind it.
    CHECK (greatest(input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens) < 1099511627776)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE usage_fresh IS
    'Requests that count and that the rollups do not have yet: one row each, moved within seconds.';
CREATE INDEX usage_fresh_account ON usage_fresh (account_id);

CREATE TABLE usage_dimensions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    key_id text NOT NULL,
    user_id text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    endpoint text NOT NULL,
    feature text NOT NULL,
    UNIQUE (account_id, key_id, user_id, model, provider, endpoint, feature)
);
COMMENT ON TABLE usage_dimensions IS 'Each combination that an account has used. user_id is empty for a key of nobody.';

CREATE TABLE usage_tags (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id text NOT NULL,
    name text NOT NULL,
    value text
);
COMMENT ON TABLE usage_tags IS
    'Names of tags that are summed, with a null value, and their values: the first ones of each account, because clients '
    'choose them. Later values of a name are summed together under the row of the name.';
CREATE UNIQUE INDEX usage_tags_names ON usage_tags (account_id, name) WHERE value IS NULL;
CREATE UNIQUE INDEX usage_tags_values ON usage_tags (account_id, name, value) WHERE value IS NOT NULL;

-- The rollups: what was used, by combination of dimensions and by tag.
CREATE TABLE usage_sums (
    account_id text NOT NULL,
    granularity smallint NOT NULL CHECK (granularity BETWEEN 0 AND 3),
    tag bigint NOT NULL,
    bucket timestamptz NOT NULL,
    dimensions bigint NOT NULL,
    value bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, granularity, tag, bucket, dimensions, value)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_sums.granularity IS '0 minute, 1 hour, 2 day, 3 month; buckets begin in UTC.';
COMMENT ON COLUMN usage_sums.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';
COMMENT ON COLUMN usage_sums.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';

CREATE VIEW usage_rollups AS
SELECT s.account_id, s.granularity, s.bucket, d.key_id, d.model, d.feature, s.requests, s.input_tokens, s.cached_input_tokens,
    s.cache_write_tokens, s.output_tokens, s.reasoning_tokens, s.cost_nano, s.charged_nano
FROM usage_sums AS s JOIN usage_dimensions AS d ON d.id = s.dimensions AND d.account_id = s.account_id
WHERE s.tag = 0;
COMMENT ON VIEW usage_rollups IS 'All requests, once; of one key, model and feature there may be several rows.';

-- What every account used in a day or a month: margins over many accounts are read from these rows. roll_usage.sql
-- raises them in the statement that raises usage_sums, so that both are of the same requests at any moment.
CREATE TABLE usage_by_account (
    granularity smallint NOT NULL CHECK (granularity BETWEEN 2 AND 3),
    bucket timestamptz NOT NULL,
    account_id text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (granularity, bucket, account_id)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_by_account.granularity IS '2 day, 3 month; buckets begin in UTC.';

-- The same by model and provider, over all accounts; and by hour, which charts of a day are drawn from.
CREATE TABLE usage_by_model (
    granularity smallint NOT NULL CHECK (granularity BETWEEN 1 AND 3),
    bucket timestamptz NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (granularity, bucket, model, provider)
) WITH (fillfactor = 80);
COMMENT ON COLUMN usage_by_model.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';

-- Sums of busy accounts by one dimension, by a tag, and by a tag with a dimension, where the sums of all combinations have
-- ten to a hundred times as many rows.
CREATE TABLE usage_by_names (
    account_id text NOT NULL,
    tag bigint NOT NULL,
    dimension smallint NOT NULL CHECK (dimension BETWEEN 0 AND 6),
    granularity smallint NOT NULL CHECK (granularity BETWEEN 1 AND 3),
    bucket timestamptz NOT NULL,
    dimension_value text COLLATE "C" NOT NULL,
    value bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    PRIMARY KEY (account_id, tag, dimension, granularity, bucket, dimension_value, value)
) WITH (fillfactor = 80);
COMMENT ON TABLE usage_by_names IS
    'Of each account in usage_folds: all requests that were admitted before its moment, and no others, by at most one tag and one dimension.';
COMMENT ON COLUMN usage_by_names.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';
COMMENT ON COLUMN usage_by_names.dimension IS '1 key, 2 user, 3 model, 4 provider, 5 endpoint, 6 feature. 0: all together.';
COMMENT ON COLUMN usage_by_names.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';
COMMENT ON COLUMN usage_by_names.dimension_value IS 'The value of the dimension. Empty with dimension 0.';
COMMENT ON COLUMN usage_by_names.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';

CREATE TABLE usage_folds (
    account_id text PRIMARY KEY,
    until timestamptz NOT NULL,
    caught_up boolean NOT NULL
);
COMMENT ON TABLE usage_folds IS
    'Accounts whose hours before a moment are in usage_by_names, too; read from there once they are caught up.';


-- SERVICES AND THEIR HOLDS

-- What other services meter: the ids of their events, for good.
CREATE TABLE service_events (
    account_id text NOT NULL,
    event_id text NOT NULL,
    digest bytea NOT NULL,
    request_id text NOT NULL,
    answer text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, event_id)
);
COMMENT ON TABLE service_events IS
    'Each event, debit and hold of a service once: written in the transaction of its debit, or of its hold.';
COMMENT ON COLUMN service_events.digest IS 'Of what was asked: the same id with another one is a conflict.';
COMMENT ON COLUMN service_events.answer IS 'The first answer, which the same ask gets again.';
CREATE TRIGGER service_events_append_only BEFORE UPDATE OR DELETE ON service_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER service_events_no_truncate BEFORE TRUNCATE ON service_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Holds of services, which outlast the process that made them.
CREATE TABLE service_holds (
    id text PRIMARY KEY,
    account_id text NOT NULL,
    event_id text NOT NULL,
    service text NOT NULL,
    partition integer NOT NULL,
    payload bytea NOT NULL,
    state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'settled', 'voided', 'expired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_event_id text,
    end_digest bytea,
    end_answer text
);
COMMENT ON COLUMN service_holds.id IS 'Also the request id of its entry in Redis, and of its debit.';
COMMENT ON COLUMN service_holds.partition IS 'Of its account in Redis, which has it held as long as its state is held.';
COMMENT ON COLUMN service_holds.payload IS 'The debit that it would be if all of it were used, as the journal has it.';
CREATE INDEX service_holds_open ON service_holds (partition, id) WHERE state = 'held';
CREATE INDEX service_holds_due ON service_holds (expires_at) WHERE state = 'held';
CREATE UNIQUE INDEX service_holds_end ON service_holds (account_id, end_event_id) WHERE end_event_id IS NOT NULL;

-- Units of features that accounts have used in the periods of their plans.
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


-- PEOPLE AND ORGANIZATIONS

CREATE TABLE users (
    id text PRIMARY KEY,
    email text UNIQUE CHECK (email = lower(email)),
    email_verified_at timestamptz,
    name text NOT NULL DEFAULT '',
    tz text,
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
CREATE INDEX users_mailed ON users (email text_pattern_ops);
CREATE INDEX users_named ON users (lower(name) text_pattern_ops);
CREATE INDEX users_begins ON users (id text_pattern_ops);
COMMENT ON COLUMN users.tz IS 'The time zone that pages show times in; null: that of the account.';
COMMENT ON COLUMN users.status IS 'pending: registered, and not let in yet by the approval policy.';
COMMENT ON COLUMN users.totp_last_step IS 'The last time step whose code was taken: no code is taken twice (RFC 6238, 5.2).';
COMMENT ON COLUMN users.tokens_valid_from IS 'Tokens that were issued before are refused: all were revoked, or the password changed.';
COMMENT ON COLUMN users.email IS 'In lower case; null for whom another issuer signs in and whose address nobody has proven.';

CREATE TABLE user_identities (
    issuer text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL REFERENCES users,
    email text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject)
);
COMMENT ON TABLE user_identities IS 'Whom other issuers sign in: by (issuer, subject), never by an address.';
COMMENT ON COLUMN user_identities.email IS 'What the issuer says, proven or not: to reach somebody by, never to find a user by.';
CREATE INDEX user_identities_user ON user_identities (user_id);

-- Codes that stand in for a second factor, once each.
CREATE TABLE recovery_codes (
    user_id text NOT NULL REFERENCES users,
    digest bytea NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (user_id, digest)
);

-- Codes and links that were mailed: to sign in, to prove an address, to set a password.
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
    used_at timestamptz,
    network text
);
COMMENT ON COLUMN one_time_codes.network IS 'Who asked: an IPv4 address, or an IPv6 network of 64 bits.';
CREATE INDEX one_time_codes_of ON one_time_codes (email, purpose, created_at);
CREATE INDEX one_time_codes_expiry ON one_time_codes (expires_at);
CREATE INDEX one_time_codes_network ON one_time_codes (network, created_at) WHERE network IS NOT NULL;

CREATE TABLE sign_in_tries (
    subject text PRIMARY KEY,
    failures integer NOT NULL,
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sign_in_tries IS
    'Tries that have not succeeded, by what is guessed at: a password, by the digest of its address, or a second factor.';
CREATE INDEX sign_in_tries_age ON sign_in_tries (updated_at);

CREATE TABLE sessions (
    id text PRIMARY KEY,
    user_id text REFERENCES users,
    kind text NOT NULL DEFAULT 'token' CHECK (kind IN ('token', 'browser', 'operator')),
    org_id text,
    scopes text[],
    cookie_digest bytea UNIQUE,
    address text,
    user_agent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text,
    provider text,
    domain text,
    seen_account text,
    seen_until timestamptz,
    CONSTRAINT sessions_whose CHECK (user_id IS NOT NULL OR kind = 'operator')
);
COMMENT ON TABLE sessions IS 'A sign-in: the family of its refresh tokens, or a browser. Ending it ends every token of it.';
COMMENT ON COLUMN sessions.scopes IS 'What its tokens are narrowed to; null: all that the role allows.';
COMMENT ON COLUMN sessions.seen_account IS 'Of an operator''s: the account whose pages they see as its customer does, up to seen_until.';
COMMENT ON COLUMN sessions.domain IS 'Of the address that the provider has verified; null where it has verified none.';
COMMENT ON COLUMN sessions.cookie_digest IS 'SHA-256 of a browser''s cookie; an operator''s without a user is the HMAC of it by the admin key.';
CREATE INDEX sessions_user ON sessions (user_id, created_at);
CREATE INDEX sessions_expiry ON sessions (expires_at);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE operator_links (
    digest bytea PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
COMMENT ON TABLE operator_links IS 'Links that begin an operator''s session once: the HMAC of their secret by the admin key.';

-- Refresh tokens of sessions. Each is good for one rotation.
CREATE TABLE refresh_tokens (
    digest bytea PRIMARY KEY,
    session_id text NOT NULL REFERENCES sessions,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    rotated_at timestamptz,
    salt bytea
);
COMMENT ON COLUMN refresh_tokens.salt IS
    'Its successor is the HMAC of this by the token itself: only who has the old one, and this, can tell the new one.';
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);

-- Access tokens that were revoked before they expired.
CREATE TABLE revoked_tokens (
    jti text NOT NULL,
    user_id text NOT NULL,
    reason text,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (jti, user_id)
);
COMMENT ON COLUMN revoked_tokens.user_id IS 'Whose token it is, by whom it was revoked: it counts for that user alone. Empty: an operator revoked it.';
CREATE INDEX revoked_tokens_expiry ON revoked_tokens (expires_at);
CREATE INDEX revoked_tokens_user ON revoked_tokens (user_id);

-- Keys that access tokens are signed with.
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

-- An organization owns an account. Everybody has a personal one.
CREATE TABLE organizations (
    id text PRIMARY KEY,
    slug text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 63),
    name text NOT NULL,
    personal boolean NOT NULL DEFAULT false,
    account_id text NOT NULL UNIQUE REFERENCES accounts,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Who belongs to an organization, and as what.
CREATE TABLE memberships (
    org_id text NOT NULL REFERENCES organizations,
    user_id text NOT NULL REFERENCES users,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz NOT NULL DEFAULT now(),
    managed boolean NOT NULL DEFAULT false,
    max_keys integer CHECK (max_keys >= 0),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);
COMMENT ON COLUMN memberships.managed IS 'The role is that of a group of the organization''s directory.';
COMMENT ON COLUMN memberships.max_keys IS 'Keys that the member may have, by their group; null: no more than every user.';

-- What the groups of an organization's directory make of its people: a list, of which the first that applies counts.
CREATE TABLE group_rules (
    org_id text PRIMARY KEY REFERENCES organizations ON DELETE CASCADE,
    rules jsonb NOT NULL
);

-- Domains of mail addresses, as operators have found to be an organization's own: who proves an address there, and has a
-- place in its directory, becomes a member.
CREATE TABLE organization_domains (
    domain text PRIMARY KEY CHECK (domain = lower(domain)),
    org_id text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX organization_domains_org ON organization_domains (org_id);

-- What directories of organizations show when they call SCIM.
CREATE TABLE scim_tokens (
    id text PRIMARY KEY,
    org_id text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name text NOT NULL,
    prefix text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX scim_tokens_org ON scim_tokens (org_id, id);

-- People as an organization's directory has them. Each is a place that is kept for an address: who proves the address
-- when they sign in takes it (user_id), and is a member from then on, while the directory says that they are active.
CREATE TABLE scim_users (
    id text PRIMARY KEY,
    org_id text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    user_name text NOT NULL,
    email text CHECK (email = lower(email)),
    external_id text,
    active boolean NOT NULL,
    user_id text REFERENCES users,
    resource jsonb NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_users_name UNIQUE (org_id, user_name),
    CONSTRAINT scim_users_email UNIQUE (org_id, email),
    CONSTRAINT scim_users_person UNIQUE (org_id, user_id)
);
COMMENT ON COLUMN scim_users.user_name IS 'As it is compared: in one case.';
CREATE INDEX scim_users_external ON scim_users (org_id, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX scim_users_open ON scim_users (email) WHERE user_id IS NULL AND active;
CREATE INDEX scim_users_taken ON scim_users (user_id) WHERE user_id IS NOT NULL;

CREATE TABLE scim_groups (
    id text PRIMARY KEY,
    org_id text NOT NULL REFERENCES organizations ON DELETE CASCADE,
    name text NOT NULL,
    external_id text,
    resource jsonb NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT scim_groups_name UNIQUE (org_id, name)
);
COMMENT ON COLUMN scim_groups.name IS 'As it is compared: in one case.';

CREATE TABLE scim_group_members (
    group_id text NOT NULL REFERENCES scim_groups ON DELETE CASCADE,
    member_id text NOT NULL REFERENCES scim_users ON DELETE CASCADE,
    PRIMARY KEY (group_id, member_id)
);
CREATE INDEX scim_group_members_member ON scim_group_members (member_id);

-- Invitations to an organization, by mail.
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
    revoked_at timestamptz,
    sends integer NOT NULL DEFAULT 1
);
CREATE INDEX invitations_org ON invitations (org_id, created_at);

-- Mails of invitations in the last 24 hours, whatever organization sent them: to whom, and by whom.
CREATE TABLE invitation_mails (
    email text NOT NULL,
    sent_by text NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX invitation_mails_to ON invitation_mails (email, sent_at);
CREATE INDEX invitation_mails_by ON invitation_mails (sent_by, sent_at);
CREATE INDEX invitation_mails_at ON invitation_mails (sent_at);

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
COMMENT ON TABLE mail_outbox IS 'Mails, written in the transaction of what they tell. Their text is removed once they are sent.';
CREATE INDEX mail_outbox_waiting ON mail_outbox (next_attempt_at) WHERE sent_at IS NULL AND failed_at IS NULL;
CREATE INDEX mail_outbox_done ON mail_outbox (created_at) WHERE sent_at IS NOT NULL OR failed_at IS NOT NULL;
CREATE INDEX mail_outbox_parked ON mail_outbox (created_at) WHERE failed_at IS NOT NULL;


-- PAYMENTS

-- Payments: an order is a row before anything is sent to a provider.
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
CREATE INDEX orders_payment_id ON orders (payment_id) WHERE payment_id IS NOT NULL;
CREATE INDEX orders_checkout_id ON orders (checkout_id) WHERE checkout_id IS NOT NULL;
CREATE INDEX orders_account ON orders (account_id, id);
CREATE INDEX orders_status ON orders (status, id);
CREATE INDEX orders_waiting ON orders (expires_at) WHERE status = 'open';
CREATE UNIQUE INDEX orders_payment ON orders (provider, payment_id) WHERE payment_id IS NOT NULL;
CREATE UNIQUE INDEX orders_checkout ON orders (provider, checkout_id) WHERE checkout_id IS NOT NULL;
CREATE INDEX orders_recharges ON orders (account_id, created_at) WHERE kind = 'recharge';
CREATE INDEX orders_open ON orders (account_id, id) WHERE status IN ('open', 'failed');

-- What operators have asked to refund of orders, written before the provider is asked.
CREATE TABLE order_refunds (
    order_id text NOT NULL REFERENCES orders,
    key text NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    refund_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, key)
);
COMMENT ON COLUMN order_refunds.refund_id IS 'The refund at the provider; until it is known, its amount is not refunded to another key.';

-- An account's customer at a payment provider.
CREATE TABLE payment_customers (
    account_id text NOT NULL REFERENCES accounts,
    provider text NOT NULL,
    generation integer NOT NULL DEFAULT 1,
    customer_id text,
    method text,
    PRIMARY KEY (account_id, provider)
);
COMMENT ON COLUMN payment_customers.generation IS
    'Raised when the provider has lost the customer: the next one is made under another idempotency key.';
CREATE UNIQUE INDEX payment_customers_id ON payment_customers (provider, customer_id);

-- The last state seen of each object at a payment provider.
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
CREATE INDEX payment_objects_payments ON payment_objects (created_at, id) WHERE kind = 'payment';
CREATE INDEX payment_objects_refunded ON payment_objects (id) WHERE kind = 'payment' AND state -> 'refunds' <> '[]';
CREATE INDEX payment_objects_disputed ON payment_objects (id) WHERE kind = 'payment' AND state -> 'disputes' <> '[]';

-- What went back to payers: each refund that was not taken back, and each movement of a dispute (below zero: it came
-- back), when it happened.
CREATE VIEW payment_returns AS
SELECT p.provider, p.id AS payment_id, p.account_id, p.order_id, p.state ->> 'currency' AS currency,
    'refund' AS kind, r ->> 'id' AS id, r ->> 'status' AS status, (r ->> 'amount_cents')::bigint AS cents,
    (r ->> 'created_at')::timestamptz AS created_at
FROM payment_objects p, jsonb_array_elements(p.state -> 'refunds') AS r
WHERE p.kind = 'payment' AND p.state -> 'refunds' <> '[]' AND r ->> 'status' NOT IN ('failed', 'canceled')
UNION ALL
SELECT p.provider, p.id, p.account_id, p.order_id, p.state ->> 'currency',
    'dispute', m ->> 'id', d ->> 'status', -(m ->> 'amount_cents')::bigint, (m ->> 'created_at')::timestamptz
FROM payment_objects p, jsonb_array_elements(p.state -> 'disputes') AS d, jsonb_array_elements(d -> 'movements') AS m
WHERE p.kind = 'payment' AND p.state -> 'disputes' <> '[]';

CREATE TABLE payment_movements (
    provider text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('refund', 'dispute')),
    id text NOT NULL,
    order_id text REFERENCES orders,
    amount_cents bigint NOT NULL,
    moved_nano bigint NOT NULL DEFAULT 0,
    transfers integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    free_nano bigint,
    PRIMARY KEY (provider, kind, id)
);
COMMENT ON TABLE payment_movements IS
    'What each refund, and each balance movement of a dispute, has taken from the account (moved_nano below zero) or brought.';
COMMENT ON COLUMN payment_movements.free_nano IS
    'What would have been left of the purchase when this moved, had no refund and no dispute of it moved anything.';
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

CREATE TABLE payment_events (
    provider text NOT NULL,
    id text NOT NULL,
    number text NOT NULL UNIQUE,
    type text NOT NULL,
    ref_kind text,
    ref_id text,
    livemode boolean NOT NULL,
    body bytea NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'ignored', 'parked')),
    attempts integer NOT NULL DEFAULT 0,
    error text,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    claimed_by text,
    PRIMARY KEY (provider, id),
    CHECK ((ref_kind IS NULL) = (ref_id IS NULL))
);
COMMENT ON TABLE payment_events IS
    'Hints of providers: each names an object, which is fetched anew. What it moves is made once by the ids of the money; '
    'a row only says that the hint was looked into.';
COMMENT ON COLUMN payment_events.number IS 'Our own id of it, a ULID: pages follow it.';
COMMENT ON COLUMN payment_events.created_at IS 'When it happened, in whole seconds at some providers: no order follows from it.';
COMMENT ON COLUMN payment_events.state IS 'ignored: of no object, or of another mode; parked: given up after many tries.';
COMMENT ON COLUMN payment_events.claimed_by IS 'The gateway that looks into it now; null: none does, or it does not say.';
CREATE INDEX payment_events_waiting ON payment_events (next_attempt_at, received_at) WHERE state = 'waiting';
CREATE INDEX payment_events_of_object ON payment_events (provider, ref_kind, ref_id) WHERE state = 'waiting';
CREATE INDEX payment_events_received ON payment_events (received_at, id);
CREATE INDEX payment_events_parked ON payment_events (received_at) WHERE state = 'parked';
CREATE INDEX payment_events_claimed ON payment_events (claimed_by) WHERE state = 'waiting' AND claimed_by IS NOT NULL;

CREATE TABLE payment_differences (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    account_id text,
    order_id text,
    difference text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, kind, id)
);
COMMENT ON TABLE payment_differences IS
    'Objects whose state at the provider was not ours when they were last compared, and still is not.';

CREATE TABLE payment_comparisons (
    provider text PRIMARY KEY,
    asked_since timestamptz,
    since timestamptz,
    began_at timestamptz,
    ended_at timestamptz,
    compared integer NOT NULL DEFAULT 0,
    differences integer NOT NULL DEFAULT 0,
    error text
);
COMMENT ON TABLE payment_comparisons IS
    'The last comparison with each provider, and since when an operator has asked for another one.';

-- Idempotency keys for which a payment provider has kept a failure of its own, that it would answer with again: a call
-- that is made again takes the key of the next generation, which is the first one's with this number before it.
CREATE TABLE spent_payment_keys (
    key text PRIMARY KEY,
    generation integer NOT NULL CHECK (generation > 1),
    spent_at timestamptz NOT NULL DEFAULT now()
);

-- Subscriptions as they were last seen at the payment provider.
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
COMMENT ON COLUMN subscriptions.plan IS 'Ours of that price; null: the price is of no plan, and was never of one.';
COMMENT ON COLUMN subscriptions.past_due_since IS 'When we first saw that it is not paid, while it is not.';
COMMENT ON COLUMN subscriptions.asked IS 'Counted on before each change that we ask for: part of its idempotency key.';

-- What subscriptions bring a month, from each change on.
CREATE TABLE subscription_changes (
    provider text NOT NULL,
    id text NOT NULL,
    created_at timestamptz NOT NULL,
    plan text,
    mrr_nano bigint NOT NULL CHECK (mrr_nano >= 0),
    PRIMARY KEY (provider, id, created_at)
);
COMMENT ON COLUMN subscription_changes.mrr_nano IS
    'The price of the plan when it came into force; 0: nothing is paid for it any more.';
CREATE INDEX subscription_changes_created ON subscription_changes (created_at);
CREATE INDEX subscriptions_account ON subscriptions (account_id, created_at);
CREATE INDEX subscriptions_past_due ON subscriptions (past_due_since) WHERE past_due_since IS NOT NULL;

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

-- Auto-recharge: an account whose balance falls below the threshold is charged.
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
COMMENT ON COLUMN auto_recharges.attempt IS
    'Counted on before anything is asked of the provider: the order of a charge is named by it, so that one that was broken off is taken up again and never made twice.';
COMMENT ON COLUMN auto_recharges.declines IS 'Since the last charge that succeeded.';
COMMENT ON COLUMN auto_recharges.next_attempt_at IS 'Nothing is looked at, or charged, before.';
CREATE INDEX auto_recharges_under_way ON auto_recharges (account_id) WHERE state IN ('ready', 'waiting', 'capped', 'charging');

-- Who is told that a balance is low.
CREATE TABLE balance_alerts (
    account_id text PRIMARY KEY REFERENCES accounts,
    threshold_nano bigint CHECK (threshold_nano >= 0),
    armed boolean NOT NULL DEFAULT false
);
COMMENT ON COLUMN balance_alerts.threshold_nano IS 'Below this the account is told; null: the default of the configuration.';
COMMENT ON COLUMN balance_alerts.armed IS 'Whether it was above since it was last told.';


-- THE LOCAL PAYMENT PROVIDER
-- What a provider elsewhere would keep.

-- Its customers, checkouts, payments, subscriptions.
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

-- Events on their way to the gateway.
CREATE TABLE local_events (
    id text PRIMARY KEY,
    type text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz
);
CREATE INDEX local_events_waiting ON local_events (id) WHERE delivered_at IS NULL;


-- NOTICES AND BUDGETS

-- What customers and operators are told of, written in the transaction of what it tells.
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
COMMENT ON COLUMN notices.account_id IS 'Whom it is about. No foreign key: it would lock the row of the account, which requests wait for.';
COMMENT ON COLUMN notices.once IS 'What happened, by its own id: told once, however often the event that tells of it comes. Null: each time.';
COMMENT ON COLUMN notices.handed_out_at IS 'When its mails and deliveries were written.';
CREATE INDEX notices_waiting ON notices (created_at, id) WHERE handed_out_at IS NULL;
CREATE INDEX notices_age ON notices (created_at);

-- Where notices go, beside mails and NOTIFICATION_WEBHOOK.
CREATE TABLE webhook_endpoints (
    id text PRIMARY KEY,
    account_id text REFERENCES accounts,
    url text NOT NULL,
    format text NOT NULL DEFAULT 'json' CHECK (format IN ('json', 'slack', 'teams', 'pagerduty')),
    routing_key text CHECK ((routing_key IS NOT NULL) = (format = 'pagerduty')),
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
COMMENT ON COLUMN webhook_endpoints.account_id IS 'Whose notices it gets; null: those of all accounts, as operators do.';
COMMENT ON COLUMN webhook_endpoints.format IS 'What notices look like there.';
COMMENT ON COLUMN webhook_endpoints.routing_key IS 'Of the service at PagerDuty that is told; never shown.';
COMMENT ON COLUMN webhook_endpoints.secret IS 'What deliveries are signed with (HMAC needs it whole); shown once.';
COMMENT ON COLUMN webhook_endpoints.old_secret IS 'The one before a rotation: signs, too, until old_secret_until.';
COMMENT ON COLUMN webhook_endpoints.types IS 'Which notices it gets; null: all.';
COMMENT ON COLUMN webhook_endpoints.failing_since IS 'The first failure since a delivery last succeeded.';
CREATE INDEX webhook_endpoints_account ON webhook_endpoints (account_id, created_at);

-- What operators were told of, and has not ended.
CREATE TABLE troubles (
    about text PRIMARY KEY,
    message text NOT NULL,
    told_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN troubles.about IS 'What it is about, such as provider:openai or postgres: told once until it has ended.';

-- A notice on its way to an endpoint.
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
COMMENT ON COLUMN webhook_deliveries.endpoint_id IS 'Where to; null: NOTIFICATION_WEBHOOK.';
COMMENT ON COLUMN webhook_deliveries.parked_at IS 'When it was given up; it can be delivered by hand.';
COMMENT ON COLUMN webhook_deliveries.status IS 'What the last answer said, where there was one.';
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (next_attempt_at, id)
    WHERE delivered_at IS NULL AND parked_at IS NULL;
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, created_at, id);
CREATE INDEX webhook_deliveries_notice ON webhook_deliveries (notice_id);

-- Sums that an account means to stay within, and is told of as they are used up. They refuse nothing.
CREATE TABLE budgets (
    id text PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    subject text NOT NULL CHECK (subject IN ('account', 'key', 'user', 'tag')),
    about text NOT NULL,
    period text NOT NULL CHECK (period IN ('day', 'week', 'month', 'total')),
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 9007199254740991),
    thresholds smallint[] NOT NULL,
    notify text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    told_period text NOT NULL DEFAULT '',
    told smallint NOT NULL DEFAULT 0,
    looked_at timestamptz NOT NULL DEFAULT '-infinity',
    CHECK ((subject = 'account') = (about = ''))
);
COMMENT ON COLUMN budgets.about IS 'The id of the key or user, NAME=VALUE of a tag, empty for the whole account.';
COMMENT ON COLUMN budgets.thresholds IS 'Percents of the amount, rising.';
COMMENT ON COLUMN budgets.notify IS 'Members who are mailed, by their addresses; none: owners and admins.';
COMMENT ON COLUMN budgets.told_period IS 'The period in which told is the highest threshold that was told of.';
COMMENT ON COLUMN budgets.looked_at IS 'When it was last compared with what was spent.';
CREATE INDEX budgets_account ON budgets (account_id, id);
CREATE INDEX budgets_looked_at ON budgets (looked_at, id);


-- WORK AT PROVIDERS

-- Objects that clients created at a provider (responses, conversations), and whose they are. Providers know the
-- operator's key alone, so that nothing but this table keeps one account from another's objects.
CREATE TABLE provider_objects (
    object_id text NOT NULL,
    provider text NOT NULL,
    account_id text NOT NULL,
    kind text NOT NULL,
    model text NOT NULL,
    total_tokens bigint CHECK (total_tokens >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (object_id, provider)
);
COMMENT ON COLUMN provider_objects.model IS 'The name at the provider of the model that made it, which leads back to the provider.';
COMMENT ON COLUMN provider_objects.total_tokens IS 'What the provider counted: it bounds what going on from here brings as input.';
CREATE INDEX provider_objects_created ON provider_objects USING brin (created_at);

-- Work that goes on at a provider after it has answered: who polls it, and what it becomes in the ledger. Whether it is
-- paid is decided by usage_events alone: by the row of request_id, or of later_id where that request's hold has expired.
CREATE TABLE background_jobs (
    object_id text NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL,
    model text NOT NULL,
    service_tier text,
    request_id text NOT NULL UNIQUE,
    later_id text NOT NULL UNIQUE,
    gateway_id text NOT NULL,
    released boolean NOT NULL DEFAULT false,
    debit bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    lease_owner text NOT NULL,
    lease_until timestamptz NOT NULL,
    done_at timestamptz,
    streamed boolean NOT NULL DEFAULT false,
    PRIMARY KEY (object_id, provider)
);
COMMENT ON COLUMN background_jobs.model IS 'As the client asked for it.';
COMMENT ON COLUMN background_jobs.gateway_id IS 'Whose hold request_id is.';
COMMENT ON COLUMN background_jobs.released IS 'That gateway has given the hold back, and settles nothing any more.';
COMMENT ON COLUMN background_jobs.debit IS 'The debit that charges the whole hold, as the journal has it.';
CREATE INDEX background_jobs_open ON background_jobs (lease_until) WHERE done_at IS NULL;
CREATE INDEX background_jobs_over ON background_jobs (done_at) WHERE done_at IS NOT NULL;

-- What gateways refused, answered and asked of providers, over all accounts: counts that each process adds beside its
-- requests, for charts and for how providers do. Nothing is billed by them.
CREATE TABLE traffic (
    granularity smallint NOT NULL CHECK (granularity BETWEEN 0 AND 1),
    bucket timestamptz NOT NULL,
    what text NOT NULL,
    name text NOT NULL,
    detail text NOT NULL,
    count bigint NOT NULL,
    buckets bigint[],
    PRIMARY KEY (granularity, bucket, what, name, detail)
) WITH (fillfactor = 80);
COMMENT ON COLUMN traffic.granularity IS '0 five minutes, 1 hour; buckets begin in UTC.';
COMMENT ON COLUMN traffic.what IS 'What is counted, as billing/traffic/ names it.';
COMMENT ON COLUMN traffic.name IS 'The provider; of a refusal its code.';
COMMENT ON COLUMN traffic.detail IS 'The status or the reason, where there is one.';
COMMENT ON COLUMN traffic.buckets IS 'Of times: how many were in each bucket of a histogram.';

CREATE TABLE provider_changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    target integer NOT NULL,
    at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'closed')),
    reason text NOT NULL
);
COMMENT ON TABLE provider_changes IS 'When the circuit of a provider''s target opened and closed, and after which failure.';
CREATE INDEX provider_changes_target ON provider_changes (provider, target, at);
CREATE INDEX provider_changes_at ON provider_changes (at);

CREATE TABLE provider_failures (
    provider text PRIMARY KEY,
    at timestamptz NOT NULL,
    reason text NOT NULL
);
COMMENT ON TABLE provider_failures IS 'The last failed attempt at each provider.';

-- What providers say that they have billed, as it was last fetched or given.
CREATE TABLE provider_bill_lines (
    provider text NOT NULL,
    source text NOT NULL CHECK (source IN ('api', 'invoice')),
    day date NOT NULL,
    model text NOT NULL,
    key text NOT NULL,
    line text NOT NULL,
    requests bigint,
    input_tokens bigint,
    output_tokens bigint,
    amount_nano bigint,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, source, day, model, key, line)
);
COMMENT ON TABLE provider_bill_lines IS 'Lines of days are replaced whole by those of a later bill from the same source.';
COMMENT ON COLUMN provider_bill_lines.key IS 'The provider''s own id of a key, project or workspace; empty where it names none.';
COMMENT ON COLUMN provider_bill_lines.amount_nano IS 'Null on lines that count and name no amount, as counts are on the others.';

-- The last comparison of a provider's bill with the ledger.
CREATE TABLE provider_comparisons (
    provider text PRIMARY KEY,
    since date NOT NULL,
    until date NOT NULL,
    ours_nano numeric NOT NULL,
    theirs_nano numeric NOT NULL,
    difference_nano numeric NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN provider_comparisons.difference_nano IS 'The sum of the differences of what did not match, each taken as above zero.';


-- COLLECTED TRAFFIC
-- Traffic that exporters count: what they said (points), what follows from it by minute and hour, whose it is, and what of it
-- has been charged. Sums of bytes on their way to a charge are numeric, so that no count is too large to be charged.

CREATE TABLE collect_sources (
    source text PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    watermark timestamptz,
    since timestamptz,
    until timestamptz,
    cursor text,
    newest timestamptz,
    collected_at timestamptz,
    error text NOT NULL DEFAULT ''
);
COMMENT ON TABLE collect_sources IS 'How far each source was collected: a page moves it in the transaction of its facts.';
COMMENT ON COLUMN collect_sources.version IS 'Of two collectors the one that moves it first goes on.';
COMMENT ON COLUMN collect_sources.watermark IS 'The newest snapshot of windows that were read to their end.';
COMMENT ON COLUMN collect_sources.since IS 'With until and cursor: the window that is being read; newest is its newest snapshot so far.';

-- The exporters' machines.
CREATE TABLE collected_nodes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    node text NOT NULL,
    env text NOT NULL,
    region text NOT NULL,
    first_at timestamptz NOT NULL,
    first_point text NOT NULL CHECK (first_point IN ('new', 'baseline', 'zero')),
    UNIQUE (source, node)
);
COMMENT ON COLUMN collected_nodes.first_at IS 'Its first snapshot, whether or not that has samples.';
COMMENT ON COLUMN collected_nodes.first_point IS
    'What the first point of a series counts: new: its value where an earlier snapshot of the node lacks the series, else nothing.';

CREATE TABLE collected_subjects (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid text NOT NULL UNIQUE,
    email text NOT NULL,
    account_id text REFERENCES accounts,
    parked boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    assigned_at timestamptz
);
COMMENT ON TABLE collected_subjects IS 'Whom exporters count, by uuid; with the e-mail address that it was first seen with.';
CREATE INDEX collected_subjects_waiting ON collected_subjects (id) WHERE account_id IS NULL;
CREATE INDEX collected_subjects_account ON collected_subjects (account_id);
CREATE INDEX collected_subjects_email ON collected_subjects (lower(email));

CREATE TABLE collected_owners (
    subject bigint NOT NULL REFERENCES collected_subjects,
    until timestamptz NOT NULL,
    account_id text NOT NULL REFERENCES accounts,
    PRIMARY KEY (subject, until)
);
COMMENT ON TABLE collected_owners IS 'What was counted of a subject before the minute until, and not before an earlier one, is of this account.';
CREATE INDEX collected_owners_account ON collected_owners (account_id);

CREATE TABLE collected_series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node bigint NOT NULL REFERENCES collected_nodes,
    subject bigint NOT NULL REFERENCES collected_subjects,
    inbound_tag text NOT NULL,
    UNIQUE (node, subject, inbound_tag)
);
COMMENT ON TABLE collected_series IS 'Two counters each: one of each direction.';
CREATE INDEX collected_series_subject ON collected_series (subject);

CREATE TABLE collected_points (
    series bigint NOT NULL,
    at timestamptz NOT NULL,
    up bigint NOT NULL,
    down bigint NOT NULL,
    up_growth bigint NOT NULL,
    down_growth bigint NOT NULL,
    revision integer NOT NULL,
    PRIMARY KEY (series, at)
);
COMMENT ON TABLE collected_points IS
    'What the counters said, and what they grew by since the point before: the facts by minute are sums of these.';
CREATE INDEX collected_points_at ON collected_points USING brin (at);

CREATE TABLE collect_revisions (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
COMMENT ON TABLE collect_revisions IS 'SOURCE_REVISION, as it was when facts were written.';

CREATE VIEW collected_minutes AS
SELECT n.source, n.node, n.region, u.uuid, u.email, u.account_id, s.inbound_tag, date_trunc('minute', p.at, 'UTC') AS minute,
    sum(p.up_growth) AS up_bytes, sum(p.down_growth) AS down_bytes, max(r.name) AS source_revision
FROM collected_points AS p JOIN collected_series AS s ON s.id = p.series JOIN collected_nodes AS n ON n.id = s.node
JOIN collected_subjects AS u ON u.id = s.subject JOIN collect_revisions AS r ON r.id = p.revision
GROUP BY n.source, n.node, n.region, u.uuid, u.email, u.account_id, s.id, s.inbound_tag, 8;

CREATE TABLE collected_hours (
    series bigint NOT NULL,
    hour timestamptz NOT NULL,
    up_bytes bigint NOT NULL,
    down_bytes bigint NOT NULL,
    PRIMARY KEY (series, hour)
) WITH (fillfactor = 70);
COMMENT ON TABLE collected_hours IS 'Sums of the growth of points, for good: points are deleted by age.';

CREATE TABLE collected_growth (
    subject bigint NOT NULL,
    region text NOT NULL,
    minute timestamptz NOT NULL,
    bytes numeric NOT NULL
);
COMMENT ON TABLE collected_growth IS
    'Of subjects that have an account: what late points change, and what was counted before they had one; deleted as it becomes due.';

-- One row with many subjects instead of a row for each of them.
CREATE TABLE collected_grown (
    region text NOT NULL,
    minute timestamptz NOT NULL,
    subjects bigint[] NOT NULL,
    bytes numeric[] NOT NULL
);
COMMENT ON TABLE collected_grown IS 'Of subjects that have an account: as collected_growth, a page at once.';

CREATE TABLE collected_due (
    account_id text NOT NULL REFERENCES accounts,
    region text NOT NULL,
    hour timestamptz NOT NULL,
    at timestamptz NOT NULL,
    bytes numeric NOT NULL,
    PRIMARY KEY (account_id, region, hour)
);
COMMENT ON TABLE collected_due IS 'What is to be charged next; deleted in the transaction of its debit.';

CREATE TABLE collected_accounts (
    account_id text PRIMARY KEY REFERENCES accounts,
    included_bytes bigint NOT NULL,
    charged_nano numeric NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE collected_accounts IS 'Accounts that collection has met: what they have free, and what they were charged.';

CREATE TABLE collected_charges (
    account_id text NOT NULL REFERENCES collected_accounts,
    price text NOT NULL,
    rate_scaled numeric NOT NULL,
    bytes numeric NOT NULL,
    PRIMARY KEY (account_id, price)
);
COMMENT ON TABLE collected_charges IS 'All bytes of an account by their price, per byte in nano-USD times billing.pricing.COST_SCALE.';

CREATE TABLE collect_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job text NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    sources integer NOT NULL,
    failed_sources integer NOT NULL,
    processed_samples bigint NOT NULL,
    written_minutes bigint NOT NULL,
    replayed_minutes bigint NOT NULL,
    conflicts bigint NOT NULL,
    set_aside bigint NOT NULL,
    debits bigint NOT NULL,
    revision text NOT NULL,
    error text NOT NULL
);
COMMENT ON TABLE collect_runs IS 'The last runs.';


-- EXPORTS
-- Usage on its way to other systems, in the order in which events were written.

-- How far each export has sent events.
CREATE TABLE exports (
    name text PRIMARY KEY,
    kind text NOT NULL,
    wseq bigint NOT NULL,
    claimed bigint,
    owner text,
    lease_until timestamptz NOT NULL DEFAULT now(),
    failures integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT now(),
    error text,
    accepted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (claimed >= wseq)
);
COMMENT ON COLUMN exports.wseq IS 'All events up to this one were accepted, or are parked.';
COMMENT ON COLUMN exports.claimed IS 'The end of the batch that is being sent: whoever goes on sends the same one.';

CREATE TABLE export_parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export text NOT NULL,
    item text NOT NULL,
    admitted_at timestamptz,
    account_id text NOT NULL,
    reason text NOT NULL,
    again boolean NOT NULL DEFAULT false,
    parked_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (export, item)
);
COMMENT ON TABLE export_parked IS 'What the other side does not take, until an operator has it tried again.';
COMMENT ON COLUMN export_parked.item IS 'The request id of an event; of a sum of an hour the identifier under which it was sent.';

CREATE TABLE export_subjects (
    export text NOT NULL,
    account_id text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (export, account_id)
);
COMMENT ON TABLE export_subjects IS 'Accounts that the other side knows, as a customer with a subscription.';

-- Sums by hour, for systems that are told sums: what was used, and what of it has been told.
CREATE TABLE export_hours (
    export text NOT NULL,
    account_id text NOT NULL,
    meter text NOT NULL,
    hour timestamptz NOT NULL,
    used numeric NOT NULL,
    told numeric NOT NULL DEFAULT 0,
    n integer NOT NULL DEFAULT 0,
    asked numeric,
    asked_at timestamptz,
    parked boolean NOT NULL DEFAULT false,
    amounts numeric[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (export, account_id, meter, hour),
    CHECK (told + coalesce(asked, 0) <= used)
);
COMMENT ON COLUMN export_hours.n IS 'How many amounts were told before: the last part of the identifier of the next one.';
COMMENT ON COLUMN export_hours.asked IS 'The amount that is being told, under identifier n: stored first, so that it is the same when it is sent again.';
COMMENT ON COLUMN export_hours.amounts IS 'What was told by each number: element N + 1 is that of number N, 0 where it counts as not told.';
CREATE INDEX export_hours_due ON export_hours (export, hour) WHERE used > told AND NOT parked;


-- SNAPSHOTS

-- Whether a row was written by what a snapshot sees. Of a row (xmin) Postgres says the lower half of its transaction's
-- number: the whole one is the nearest to the snapshot's end, which is right for rows of the two thousand million
-- transactions around it.
CREATE FUNCTION seen_in(writer xid, moment pg_snapshot) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT pg_visible_in_snapshot(greatest(ended - ((ended - writer::text::bigint + 2147483648) % 4294967296
        + 4294967296) % 4294967296 + 2147483648, 3)::text::xid8, moment)
    FROM (SELECT pg_snapshot_xmax(moment)::text::bigint) AS the_end (ended)
$$;
