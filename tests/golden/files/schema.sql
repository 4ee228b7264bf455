--
-- PostgreSQL database dump
--

\restrict golden


SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: create_usage_months(date, integer); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.create_usage_months(first date, months integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: ledger_identity(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.ledger_identity() RETURNS text
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: refuse_change(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;


--
-- Name: refuse_truncate_of(regclass); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.refuse_truncate_of(month regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- Made once: making it again would wait for whoever writes to the month.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = month AND tgname = 'usage_events_no_truncate') THEN
        EXECUTE format('CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', month);
    END IF;
END $$;


--
-- Name: refuse_usage_change(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.refuse_usage_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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


--
-- Name: seen_in(xid, pg_snapshot); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.seen_in(writer xid, moment pg_snapshot) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT pg_visible_in_snapshot(greatest(ended - ((ended - writer::text::bigint + 2147483648) % 4294967296
        + 4294967296) % 4294967296 + 2147483648, 3)::text::xid8, moment)
    FROM (SELECT pg_snapshot_xmax(moment)::text::bigint) AS the_end (ended)
$$;


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: account_plans; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.account_plans (
    account_id text NOT NULL,
    plan text NOT NULL,
    standing text NOT NULL,
    ends_at timestamp with time zone,
    next_plan text,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT account_plans_standing_check CHECK ((standing = ANY (ARRAY['none'::text, 'active'::text, 'past_due'::text, 'downgraded'::text])))
);


--
-- Name: TABLE account_plans; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.account_plans IS 'What the subscriptions of an account came to last. Its plan is changed when this changes, so that a plan that an operator gives it stays until then.';


--
-- Name: accounts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.accounts (
    id text NOT NULL,
    name text NOT NULL,
    plan text NOT NULL,
    status text DEFAULT 'active'::text NOT NULL,
    past_due_since timestamp with time zone,
    credit_limit_nano bigint DEFAULT 0 NOT NULL,
    quotas jsonb DEFAULT '[]'::jsonb NOT NULL,
    payment_customer_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    balance_nano bigint DEFAULT 0 NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    pushed_version bigint DEFAULT 1 NOT NULL,
    xseq bigint DEFAULT 0 NOT NULL,
    pushed_xseq bigint DEFAULT 0 NOT NULL,
    hyd_epoch bigint DEFAULT '-1'::integer NOT NULL,
    tz text,
    suspended_for text[] DEFAULT '{}'::text[] NOT NULL,
    CONSTRAINT accounts_balance_nano_check CHECK (((balance_nano >= '-9007199254740991'::bigint) AND (balance_nano <= '9007199254740991'::bigint))),
    CONSTRAINT accounts_credit_limit_nano_check CHECK (((credit_limit_nano >= 0) AND (credit_limit_nano <= '9007199254740991'::bigint))),
    CONSTRAINT accounts_status_check CHECK ((status = ANY (ARRAY['active'::text, 'past_due'::text, 'suspended'::text, 'closed'::text])))
)
WITH (fillfactor='60');


--
-- Name: COLUMN accounts.version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.version IS 'Rises with every change of plan, status, credit limit or quotas.';


--
-- Name: COLUMN accounts.pushed_version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.pushed_version IS 'The last version that Redis and the gateways were told of.';


--
-- Name: COLUMN accounts.xseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.xseq IS 'Number of the last correction: a change of the balance that Redis has not made itself.';


--
-- Name: COLUMN accounts.pushed_xseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.pushed_xseq IS 'The last correction that Redis was told of, or did not need.';


--
-- Name: COLUMN accounts.hyd_epoch; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.hyd_epoch IS 'The epoch for which Redis was last loaded with this account.';


--
-- Name: COLUMN accounts.tz; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.accounts.tz IS 'The IANA time zone in which days and months of reports begin; null: UTC.';


--
-- Name: api_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.api_keys (
    id text NOT NULL,
    account_id text NOT NULL,
    user_id text,
    name text NOT NULL,
    prefix text NOT NULL,
    secret_sha256 bytea NOT NULL,
    scopes text[] NOT NULL,
    models text[],
    quotas jsonb DEFAULT '[]'::jsonb NOT NULL,
    max_parallel_requests integer,
    tags jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone,
    version bigint DEFAULT 1 NOT NULL,
    pushed_version bigint DEFAULT 1 NOT NULL,
    previous_sha256 bytea,
    previous_until timestamp with time zone,
    default_tool_calls integer,
    CONSTRAINT api_keys_default_tool_calls_check CHECK ((default_tool_calls > 0)),
    CONSTRAINT api_keys_expires_at_finite CHECK (isfinite(expires_at)),
    CONSTRAINT api_keys_max_parallel_requests_check CHECK ((max_parallel_requests > 0))
);


--
-- Name: audit_log; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.audit_log (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
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


--
-- Name: audit_log_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.audit_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: auto_recharges; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.auto_recharges (
    account_id text NOT NULL,
    enabled boolean NOT NULL,
    threshold_nano bigint NOT NULL,
    amount_cents bigint NOT NULL,
    monthly_cap_cents bigint NOT NULL,
    state text NOT NULL,
    reason text,
    url text,
    attempt integer DEFAULT 0 NOT NULL,
    declines integer DEFAULT 0 NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT auto_recharges_amount_cents_check CHECK ((amount_cents > 0)),
    CONSTRAINT auto_recharges_check CHECK ((monthly_cap_cents >= amount_cents)),
    CONSTRAINT auto_recharges_check1 CHECK (((state = 'charging'::text) OR (enabled = (state = ANY (ARRAY['ready'::text, 'waiting'::text, 'capped'::text]))))),
    CONSTRAINT auto_recharges_state_check CHECK ((state = ANY (ARRAY['off'::text, 'ready'::text, 'charging'::text, 'waiting'::text, 'capped'::text, 'stopped'::text]))),
    CONSTRAINT auto_recharges_threshold_nano_check CHECK ((threshold_nano >= 0))
);


--
-- Name: COLUMN auto_recharges.attempt; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.auto_recharges.attempt IS 'Counted on before anything is asked of the provider: the order of a charge is named by it, so that one that was broken off is taken up again and never made twice.';


--
-- Name: COLUMN auto_recharges.declines; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.auto_recharges.declines IS 'Since the last charge that succeeded.';


--
-- Name: COLUMN auto_recharges.next_attempt_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.auto_recharges.next_attempt_at IS 'Nothing is looked at, or charged, before.';


--
-- Name: background_jobs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.background_jobs (
    object_id text NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL,
    model text NOT NULL,
    service_tier text,
    request_id text NOT NULL,
    later_id text NOT NULL,
    gateway_id text NOT NULL,
    released boolean DEFAULT false NOT NULL,
    debit bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    lease_owner text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    done_at timestamp with time zone,
    streamed boolean DEFAULT false NOT NULL
);


--
-- Name: COLUMN background_jobs.model; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.background_jobs.model IS 'As the client asked for it.';


--
-- Name: COLUMN background_jobs.gateway_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.background_jobs.gateway_id IS 'Whose hold request_id is.';


--
-- Name: COLUMN background_jobs.released; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.background_jobs.released IS 'That gateway has given the hold back, and settles nothing any more.';


--
-- Name: COLUMN background_jobs.debit; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.background_jobs.debit IS 'The debit that charges the whole hold, as the journal has it.';


--
-- Name: balance_alerts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.balance_alerts (
    account_id text NOT NULL,
    threshold_nano bigint,
    armed boolean DEFAULT false NOT NULL,
    CONSTRAINT balance_alerts_threshold_nano_check CHECK ((threshold_nano >= 0))
);


--
-- Name: COLUMN balance_alerts.threshold_nano; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.balance_alerts.threshold_nano IS 'Below this the account is told; null: the default of the configuration.';


--
-- Name: COLUMN balance_alerts.armed; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.balance_alerts.armed IS 'Whether it was above since it was last told.';


--
-- Name: budgets; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.budgets (
    id text NOT NULL,
    account_id text NOT NULL,
    subject text NOT NULL,
    about text NOT NULL,
    period text NOT NULL,
    amount_nano bigint NOT NULL,
    thresholds smallint[] NOT NULL,
    notify text[] NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    told_period text DEFAULT ''::text NOT NULL,
    told smallint DEFAULT 0 NOT NULL,
    looked_at timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    CONSTRAINT budgets_amount_nano_check CHECK (((amount_nano >= 1) AND (amount_nano <= '9007199254740991'::bigint))),
    CONSTRAINT budgets_check CHECK (((subject = 'account'::text) = (about = ''::text))),
    CONSTRAINT budgets_period_check CHECK ((period = ANY (ARRAY['day'::text, 'week'::text, 'month'::text, 'total'::text]))),
    CONSTRAINT budgets_subject_check CHECK ((subject = ANY (ARRAY['account'::text, 'key'::text, 'user'::text, 'tag'::text])))
);


--
-- Name: COLUMN budgets.about; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.budgets.about IS 'The id of the key or user, NAME=VALUE of a tag, empty for the whole account.';


--
-- Name: COLUMN budgets.thresholds; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.budgets.thresholds IS 'Percents of the amount, rising.';


--
-- Name: COLUMN budgets.notify; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.budgets.notify IS 'Members who are mailed, by their addresses; none: owners and admins.';


--
-- Name: COLUMN budgets.told_period; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.budgets.told_period IS 'The period in which told is the highest threshold that was told of.';


--
-- Name: COLUMN budgets.looked_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.budgets.looked_at IS 'When it was last compared with what was spent.';


--
-- Name: collect_revisions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collect_revisions (
    id integer NOT NULL,
    name text NOT NULL
);


--
-- Name: TABLE collect_revisions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collect_revisions IS 'SOURCE_REVISION, as it was when facts were written.';


--
-- Name: collect_revisions_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.collect_revisions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.collect_revisions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: collect_runs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collect_runs (
    id bigint NOT NULL,
    job text NOT NULL,
    status text NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone NOT NULL,
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


--
-- Name: TABLE collect_runs; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collect_runs IS 'The last runs.';


--
-- Name: collect_runs_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.collect_runs ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.collect_runs_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: collect_sources; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collect_sources (
    source text NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    watermark timestamp with time zone,
    since timestamp with time zone,
    until timestamp with time zone,
    cursor text,
    newest timestamp with time zone,
    collected_at timestamp with time zone,
    error text DEFAULT ''::text NOT NULL
);


--
-- Name: TABLE collect_sources; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collect_sources IS 'How far each source was collected: a page moves it in the transaction of its facts.';


--
-- Name: COLUMN collect_sources.version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.collect_sources.version IS 'Of two collectors the one that moves it first goes on.';


--
-- Name: COLUMN collect_sources.watermark; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.collect_sources.watermark IS 'The newest snapshot of windows that were read to their end.';


--
-- Name: COLUMN collect_sources.since; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.collect_sources.since IS 'With until and cursor: the window that is being read; newest is its newest snapshot so far.';


--
-- Name: collected_accounts; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_accounts (
    account_id text NOT NULL,
    included_bytes bigint NOT NULL,
    charged_nano numeric DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE collected_accounts; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_accounts IS 'Accounts that collection has met: what they have free, and what they were charged.';


--
-- Name: collected_charges; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_charges (
    account_id text NOT NULL,
    price text NOT NULL,
    rate_scaled numeric NOT NULL,
    bytes numeric NOT NULL
);


--
-- Name: TABLE collected_charges; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_charges IS 'All bytes of an account by their price, per byte in nano-USD times billing.pricing.COST_SCALE.';


--
-- Name: collected_due; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_due (
    account_id text NOT NULL,
    region text NOT NULL,
    hour timestamp with time zone NOT NULL,
    at timestamp with time zone NOT NULL,
    bytes numeric NOT NULL
);


--
-- Name: TABLE collected_due; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_due IS 'What is to be charged next; deleted in the transaction of its debit.';


--
-- Name: collected_grown; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_grown (
    region text NOT NULL,
    minute timestamp with time zone NOT NULL,
    subjects bigint[] NOT NULL,
    bytes numeric[] NOT NULL
);


--
-- Name: TABLE collected_grown; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_grown IS 'Of subjects that have an account: as collected_growth, a page at once.';


--
-- Name: collected_growth; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_growth (
    subject bigint NOT NULL,
    region text NOT NULL,
    minute timestamp with time zone NOT NULL,
    bytes numeric NOT NULL
);


--
-- Name: TABLE collected_growth; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_growth IS 'Of subjects that have an account: what late points change, and what was counted before they had one; deleted as it becomes due.';


--
-- Name: collected_hours; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_hours (
    series bigint NOT NULL,
    hour timestamp with time zone NOT NULL,
    up_bytes bigint NOT NULL,
    down_bytes bigint NOT NULL
)
WITH (fillfactor='70');


--
-- Name: TABLE collected_hours; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_hours IS 'Sums of the growth of points, for good: points are deleted by age.';


--
-- Name: collected_nodes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_nodes (
    id bigint NOT NULL,
    source text NOT NULL,
    node text NOT NULL,
    env text NOT NULL,
    region text NOT NULL,
    first_at timestamp with time zone NOT NULL,
    first_point text NOT NULL,
    CONSTRAINT collected_nodes_first_point_check CHECK ((first_point = ANY (ARRAY['new'::text, 'baseline'::text, 'zero'::text])))
);


--
-- Name: COLUMN collected_nodes.first_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.collected_nodes.first_at IS 'Its first snapshot, whether or not that has samples.';


--
-- Name: COLUMN collected_nodes.first_point; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.collected_nodes.first_point IS 'What the first point of a series counts: new: its value where an earlier snapshot of the node lacks the series, else nothing.';


--
-- Name: collected_points; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_points (
    series bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    up bigint NOT NULL,
    down bigint NOT NULL,
    up_growth bigint NOT NULL,
    down_growth bigint NOT NULL,
    revision integer NOT NULL
);


--
-- Name: TABLE collected_points; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_points IS 'What the counters said, and what they grew by since the point before: the facts by minute are sums of these.';


--
-- Name: collected_series; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_series (
    id bigint NOT NULL,
    node bigint NOT NULL,
    subject bigint NOT NULL,
    inbound_tag text NOT NULL
);


--
-- Name: TABLE collected_series; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_series IS 'Two counters each: one of each direction.';


--
-- Name: collected_subjects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_subjects (
    id bigint NOT NULL,
    uuid text NOT NULL,
    email text NOT NULL,
    account_id text,
    parked boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    assigned_at timestamp with time zone
);


--
-- Name: TABLE collected_subjects; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_subjects IS 'Whom exporters count, by uuid; with the e-mail address that it was first seen with.';


--
-- Name: collected_minutes; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.collected_minutes AS
 SELECT n.source,
    n.node,
    n.region,
    u.uuid,
    u.email,
    u.account_id,
    s.inbound_tag,
    date_trunc('minute'::text, p.at, 'UTC'::text) AS minute,
    sum(p.up_growth) AS up_bytes,
    sum(p.down_growth) AS down_bytes,
    max(r.name) AS source_revision
   FROM ((((public.collected_points p
     JOIN public.collected_series s ON ((s.id = p.series)))
     JOIN public.collected_nodes n ON ((n.id = s.node)))
     JOIN public.collected_subjects u ON ((u.id = s.subject)))
     JOIN public.collect_revisions r ON ((r.id = p.revision)))
  GROUP BY n.source, n.node, n.region, u.uuid, u.email, u.account_id, s.id, s.inbound_tag, (date_trunc('minute'::text, p.at, 'UTC'::text));


--
-- Name: collected_nodes_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.collected_nodes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.collected_nodes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: collected_owners; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.collected_owners (
    subject bigint NOT NULL,
    until timestamp with time zone NOT NULL,
    account_id text NOT NULL
);


--
-- Name: TABLE collected_owners; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.collected_owners IS 'What was counted of a subject before the minute until, and not before an earlier one, is of this account.';


--
-- Name: collected_series_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.collected_series ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.collected_series_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: collected_subjects_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.collected_subjects ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.collected_subjects_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: corrections; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.corrections (
    account_id text NOT NULL,
    xseq bigint NOT NULL,
    delta_nano bigint NOT NULL,
    request_id text,
    key_id text,
    admitted_at_ms bigint,
    model text,
    feature text,
    requests bigint DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    cost_nano bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE corrections; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.corrections IS 'Changes of a balance that Redis has not made itself, in the order in which it must be told of them.';


--
-- Name: coupon_owners; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.coupon_owners (
    coupon_id text NOT NULL,
    user_id text NOT NULL,
    account_id text NOT NULL
);


--
-- Name: coupon_redemptions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.coupon_redemptions (
    coupon_id text NOT NULL,
    account_id text NOT NULL,
    transfer_id text NOT NULL,
    redeemed_by text NOT NULL,
    redeemed_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: coupons; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.coupons (
    id text NOT NULL,
    name text NOT NULL,
    code_sha256 bytea NOT NULL,
    amount_nano bigint NOT NULL,
    priority smallint NOT NULL,
    credit_days integer,
    expires_at timestamp with time zone,
    most_redemptions integer,
    redemptions integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    disabled_at timestamp with time zone,
    CONSTRAINT coupons_amount_nano_check CHECK (((amount_nano >= 1) AND (amount_nano <= '9007199254740991'::bigint))),
    CONSTRAINT coupons_check CHECK ((redemptions <= most_redemptions)),
    CONSTRAINT coupons_credit_days_check CHECK ((credit_days > 0)),
    CONSTRAINT coupons_expires_at_finite CHECK (isfinite(expires_at)),
    CONSTRAINT coupons_most_redemptions_check CHECK ((most_redemptions > 0)),
    CONSTRAINT coupons_priority_check CHECK (((priority >= 0) AND (priority <= 100)))
);


--
-- Name: COLUMN coupons.code_sha256; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.coupons.code_sha256 IS 'Of the code in capitals, without spaces and hyphens.';


--
-- Name: COLUMN coupons.credit_days; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.coupons.credit_days IS 'For how many days the credit lasts after it was redeemed; null: for ever.';


--
-- Name: COLUMN coupons.expires_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.coupons.expires_at IS 'Until when it can be redeemed; null: for ever.';


--
-- Name: debits_set_aside; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.debits_set_aside (
    request_id text NOT NULL,
    debit bytea NOT NULL,
    reason text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    kind text DEFAULT 'debit'::text NOT NULL,
    CONSTRAINT debits_set_aside_kind_check CHECK ((kind = ANY (ARRAY['debit'::text, 'entry'::text])))
);


--
-- Name: TABLE debits_set_aside; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.debits_set_aside IS 'Debits that the ledger refused however often: kept for an operator, never blocking the others.';


--
-- Name: COLUMN debits_set_aside.kind; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.debits_set_aside.kind IS 'What the bytes in `debit` are: a debit as the journal has it in its entries, or a whole entry.';


--
-- Name: export_hours; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.export_hours (
    export text NOT NULL,
    account_id text NOT NULL,
    meter text NOT NULL,
    hour timestamp with time zone NOT NULL,
    used numeric NOT NULL,
    told numeric DEFAULT 0 NOT NULL,
    n integer DEFAULT 0 NOT NULL,
    asked numeric,
    asked_at timestamp with time zone,
    parked boolean DEFAULT false NOT NULL,
    amounts numeric[] DEFAULT '{}'::numeric[] NOT NULL,
    CONSTRAINT export_hours_check CHECK (((told + COALESCE(asked, (0)::numeric)) <= used))
);


--
-- Name: COLUMN export_hours.n; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.export_hours.n IS 'How many amounts were told before: the last part of the identifier of the next one.';


--
-- Name: COLUMN export_hours.asked; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.export_hours.asked IS 'The amount that is being told, under identifier n: stored first, so that it is the same when it is sent again.';


--
-- Name: COLUMN export_hours.amounts; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.export_hours.amounts IS 'What was told by each number: element N + 1 is that of number N, 0 where it counts as not told.';


--
-- Name: export_parked; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.export_parked (
    id bigint NOT NULL,
    export text NOT NULL,
    item text NOT NULL,
    admitted_at timestamp with time zone,
    account_id text NOT NULL,
    reason text NOT NULL,
    again boolean DEFAULT false NOT NULL,
    parked_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE export_parked; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.export_parked IS 'What the other side does not take, until an operator has it tried again.';


--
-- Name: COLUMN export_parked.item; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.export_parked.item IS 'The request id of an event; of a sum of an hour the identifier under which it was sent.';


--
-- Name: export_parked_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.export_parked ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.export_parked_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: export_subjects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.export_subjects (
    export text NOT NULL,
    account_id text NOT NULL,
    made_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE export_subjects; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.export_subjects IS 'Accounts that the other side knows, as a customer with a subscription.';


--
-- Name: exports; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.exports (
    name text NOT NULL,
    kind text NOT NULL,
    wseq bigint NOT NULL,
    claimed bigint,
    owner text,
    lease_until timestamp with time zone DEFAULT now() NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    next_at timestamp with time zone DEFAULT now() NOT NULL,
    error text,
    accepted_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT exports_check CHECK ((claimed >= wseq))
);


--
-- Name: COLUMN exports.wseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.exports.wseq IS 'All events up to this one were accepted, or are parked.';


--
-- Name: COLUMN exports.claimed; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.exports.claimed IS 'The end of the batch that is being sent: whoever goes on sends the same one.';


--
-- Name: feature_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.feature_events (
    account_id text NOT NULL,
    event_id text NOT NULL,
    feature text NOT NULL,
    units bigint NOT NULL,
    period_start timestamp with time zone NOT NULL,
    used bigint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT feature_events_units_check CHECK ((units > 0))
);


--
-- Name: TABLE feature_events; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.feature_events IS 'Each use of a feature by its event: the same again counts no second time.';


--
-- Name: feature_units; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.feature_units (
    account_id text NOT NULL,
    feature text NOT NULL,
    period_start timestamp with time zone NOT NULL,
    used bigint NOT NULL,
    CONSTRAINT feature_units_used_check CHECK ((used >= 0))
);


--
-- Name: gateways; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.gateways (
    id text NOT NULL,
    lease_until timestamp with time zone NOT NULL,
    judged timestamp with time zone,
    ended_at timestamp with time zone,
    layout integer DEFAULT 1 NOT NULL
);


--
-- Name: COLUMN gateways.lease_until; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.gateways.lease_until IS 'Another value with each renewal. The time itself is for people to read.';


--
-- Name: COLUMN gateways.judged; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.gateways.judged IS 'The lease_until at which other gateways last ended holds of this one. It sees a new value here when it wakes.';


--
-- Name: COLUMN gateways.ended_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.gateways.ended_at IS 'Its process has ended, as it said itself or its supervisor did.';


--
-- Name: COLUMN gateways.layout; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.gateways.layout IS 'The version of the layout in which it keeps accounts and keys in Redis.';


--
-- Name: group_rules; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.group_rules (
    org_id text NOT NULL,
    rules jsonb NOT NULL
);


--
-- Name: installation; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.installation (
    one boolean DEFAULT true NOT NULL,
    redis_partitions integer,
    beat bigint DEFAULT 0 NOT NULL,
    deployment text DEFAULT (gen_random_uuid())::text NOT NULL,
    cursor_secret bytea DEFAULT sha256((uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))) NOT NULL,
    CONSTRAINT installation_one_check CHECK (one),
    CONSTRAINT installation_redis_partitions_check CHECK (((redis_partitions >= 1) AND (redis_partitions <= 4096)))
);


--
-- Name: TABLE installation; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.installation IS 'One row: what is decided once. redis_partitions is fixed by the first gateway.';


--
-- Name: COLUMN installation.beat; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.installation.beat IS 'Counted on by every gateway each second, and noted in Redis now and then: a ledger that was set back has counted less.';


--
-- Name: COLUMN installation.deployment; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.installation.deployment IS 'What tells our objects at a payment provider from those of other installations that share its account.';


--
-- Name: invitation_mails; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.invitation_mails (
    email text NOT NULL,
    sent_by text NOT NULL,
    sent_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: invitations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.invitations (
    id text NOT NULL,
    org_id text NOT NULL,
    email text NOT NULL,
    role text NOT NULL,
    digest bytea NOT NULL,
    invited_by text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    accepted_at timestamp with time zone,
    revoked_at timestamp with time zone,
    sends integer DEFAULT 1 NOT NULL,
    CONSTRAINT invitations_email_check CHECK ((email = lower(email))),
    CONSTRAINT invitations_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'viewer'::text])))
);


--
-- Name: job_leases; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.job_leases (
    name text NOT NULL,
    owner text NOT NULL,
    until timestamp with time zone NOT NULL
);


--
-- Name: TABLE job_leases; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.job_leases IS 'Work that one gateway does for all: whoever holds the lease, until then.';


--
-- Name: local_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.local_events (
    id text NOT NULL,
    type text NOT NULL,
    object_kind text NOT NULL,
    object_id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    delivered_at timestamp with time zone
);


--
-- Name: local_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.local_keys (
    key text NOT NULL,
    digest bytea NOT NULL,
    answer jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE local_keys; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.local_keys IS 'Idempotency keys of calls to the local provider, with what they were answered.';


--
-- Name: local_objects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.local_objects (
    kind text NOT NULL,
    id text NOT NULL,
    customer_id text,
    order_id text,
    parent_id text,
    state jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL
);


--
-- Name: local_pages; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.local_pages (
    id_sha256 bytea NOT NULL,
    kind text NOT NULL,
    object_id text NOT NULL,
    urls jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT local_pages_kind_check CHECK ((kind = ANY (ARRAY['checkout'::text, 'setup'::text, 'portal'::text])))
);


--
-- Name: TABLE local_pages; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.local_pages IS 'Hosted pages, found by an id that only whoever was given the address knows.';


--
-- Name: lots; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.lots (
    id text NOT NULL,
    account_id text NOT NULL,
    kind text NOT NULL,
    transfer_id text,
    amount_nano bigint NOT NULL,
    left_nano bigint NOT NULL,
    priority smallint NOT NULL,
    promotional boolean NOT NULL,
    expires_at timestamp with time zone,
    expired_nano bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT lots_amount_nano_check CHECK (((amount_nano >= 1) AND (amount_nano <= '9007199254740991'::bigint))),
    CONSTRAINT lots_check CHECK (((left_nano >= 0) AND (left_nano <= amount_nano))),
    CONSTRAINT lots_expired_nano_check CHECK ((expired_nano >= 0)),
    CONSTRAINT lots_expires_at_finite CHECK (isfinite(expires_at)),
    CONSTRAINT lots_kind_check CHECK ((kind = ANY (ARRAY['purchase'::text, 'grant'::text, 'refund'::text, 'adjustment'::text, 'dispute'::text, 'subscription'::text]))),
    CONSTRAINT lots_priority_check CHECK (((priority >= 0) AND (priority <= 100)))
);


--
-- Name: TABLE lots; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.lots IS 'Raises of balances. No debit touches a lot: left_nano is as of the last change of the account''s lots, and lots_now has what it is now.';


--
-- Name: COLUMN lots.priority; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.lots.priority IS 'Lots of a lower number are drawn first.';


--
-- Name: lots_now; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.lots_now AS
 SELECT id,
    account_id,
    kind,
    transfer_id,
    amount_nano,
    left_nano,
    priority,
    promotional,
    expires_at,
    expired_nano,
    created_at,
    drawn_nano,
    before_nano,
    ((left_nano)::numeric - GREATEST((0)::numeric, LEAST((left_nano)::numeric, (drawn_nano - before_nano)))) AS left_now
   FROM ( SELECT lots.id,
            lots.account_id,
            lots.kind,
            lots.transfer_id,
            lots.amount_nano,
            lots.left_nano,
            lots.priority,
            lots.promotional,
            lots.expires_at,
            lots.expired_nano,
            lots.created_at,
            (sum(lots.left_nano) OVER (PARTITION BY lots.account_id) - (GREATEST(accounts.balance_nano, (0)::bigint))::numeric) AS drawn_nano,
            (sum(lots.left_nano) OVER (PARTITION BY lots.account_id ORDER BY lots.priority, lots.expires_at, lots.promotional DESC, lots.created_at, lots.id) - (lots.left_nano)::numeric) AS before_nano
           FROM (public.lots
             JOIN public.accounts ON ((accounts.id = lots.account_id)))
          WHERE (lots.left_nano > 0)) ordered;


--
-- Name: mail_outbox; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.mail_outbox (
    id text NOT NULL,
    recipient text NOT NULL,
    subject text NOT NULL,
    body text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    sent_at timestamp with time zone,
    failed_at timestamp with time zone,
    error text
);


--
-- Name: TABLE mail_outbox; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.mail_outbox IS 'Mails, written in the transaction of what they tell. Their text is removed once they are sent.';


--
-- Name: member_limits; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.member_limits (
    account_id text NOT NULL,
    user_id text NOT NULL,
    quotas jsonb NOT NULL,
    since bigint NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT member_limits_quotas_check CHECK ((jsonb_array_length(quotas) > 0)),
    CONSTRAINT member_limits_user_id_check CHECK ((user_id <> ''::text))
);


--
-- Name: COLUMN member_limits.since; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.member_limits.since IS 'The version of the account from which on the user has had quotas without a break: what Redis counted before is not all.';


--
-- Name: memberships; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.memberships (
    org_id text NOT NULL,
    user_id text NOT NULL,
    role text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    managed boolean DEFAULT false NOT NULL,
    max_keys integer,
    CONSTRAINT memberships_max_keys_check CHECK ((max_keys >= 0)),
    CONSTRAINT memberships_role_check CHECK ((role = ANY (ARRAY['owner'::text, 'admin'::text, 'member'::text, 'viewer'::text])))
);


--
-- Name: COLUMN memberships.managed; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.memberships.managed IS 'The role is that of a group of the organization''s directory.';


--
-- Name: COLUMN memberships.max_keys; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.memberships.max_keys IS 'Keys that the member may have, by their group; null: no more than every user.';


--
-- Name: migrations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.migrations (
    number integer NOT NULL,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    rolls boolean NOT NULL
);


--
-- Name: notices; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.notices (
    id text DEFAULT ('ntc_'::text || replace((gen_random_uuid())::text, '-'::text, ''::text)) NOT NULL,
    account_id text NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    once text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    handed_out_at timestamp with time zone
);


--
-- Name: COLUMN notices.account_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.notices.account_id IS 'Whom it is about. No foreign key: it would lock the row of the account, which requests wait for.';


--
-- Name: COLUMN notices.once; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.notices.once IS 'What happened, by its own id: told once, however often the event that tells of it comes. Null: each time.';


--
-- Name: COLUMN notices.handed_out_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.notices.handed_out_at IS 'When its mails and deliveries were written.';


--
-- Name: one_time_codes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.one_time_codes (
    id text NOT NULL,
    email text NOT NULL,
    purpose text NOT NULL,
    user_id text,
    digest bytea NOT NULL,
    context jsonb DEFAULT '{}'::jsonb NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    network text
);


--
-- Name: COLUMN one_time_codes.network; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.one_time_codes.network IS 'Who asked: an IPv4 address, or an IPv6 network of 64 bits.';


--
-- Name: operator_links; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.operator_links (
    digest bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone
);


--
-- Name: TABLE operator_links; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.operator_links IS 'Links that begin an operator''s session once: the HMAC of their secret by the admin key.';


--
-- Name: order_refunds; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.order_refunds (
    order_id text NOT NULL,
    key text NOT NULL,
    amount_cents bigint NOT NULL,
    refund_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT order_refunds_amount_cents_check CHECK ((amount_cents > 0))
);


--
-- Name: COLUMN order_refunds.refund_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.order_refunds.refund_id IS 'The refund at the provider; until it is known, its amount is not refunded to another key.';


--
-- Name: orders; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.orders (
    id text NOT NULL,
    account_id text NOT NULL,
    kind text NOT NULL,
    amount_cents bigint NOT NULL,
    plan text,
    status text DEFAULT 'open'::text NOT NULL,
    provider text NOT NULL,
    customer_id text,
    checkout_id text,
    payment_id text,
    subscription_id text,
    url text,
    urls jsonb,
    save_method boolean DEFAULT false NOT NULL,
    expires_at timestamp with time zone,
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    transfer_id text,
    credited_at timestamp with time zone,
    refunded_cents bigint DEFAULT 0 NOT NULL,
    disputed_cents bigint DEFAULT 0 NOT NULL,
    reason text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_amount_cents_check CHECK (((amount_cents >= 1) AND (amount_cents <= 900719925))),
    CONSTRAINT orders_check CHECK (((plan IS NOT NULL) = (kind = 'plan'::text))),
    CONSTRAINT orders_kind_check CHECK ((kind = ANY (ARRAY['credit'::text, 'plan'::text, 'recharge'::text]))),
    CONSTRAINT orders_refunded_cents_check CHECK ((refunded_cents >= 0)),
    CONSTRAINT orders_status_check CHECK ((status = ANY (ARRAY['open'::text, 'paid'::text, 'credited'::text, 'failed'::text, 'expired'::text, 'refunded'::text, 'disputed'::text, 'parked'::text])))
);


--
-- Name: COLUMN orders.amount_cents; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.amount_cents IS 'What is credited when it is paid, whatever the provider has taken in all.';


--
-- Name: COLUMN orders.transfer_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.transfer_id IS 'The transfer that credited it: the purchase of which a refund takes what is left.';


--
-- Name: COLUMN orders.credited_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.credited_at IS 'When its amount was credited, or its plan came into force.';


--
-- Name: COLUMN orders.disputed_cents; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.disputed_cents IS 'What disputes have taken and not brought back.';


--
-- Name: COLUMN orders.reason; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.reason IS 'Why it failed or was parked: a decline code, or a sentence.';


--
-- Name: organization_domains; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.organization_domains (
    domain text NOT NULL,
    org_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT organization_domains_domain_check CHECK ((domain = lower(domain)))
);


--
-- Name: organizations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.organizations (
    id text NOT NULL,
    slug text NOT NULL,
    name text NOT NULL,
    personal boolean DEFAULT false NOT NULL,
    account_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT organizations_slug_check CHECK (((slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'::text) AND (length(slug) <= 63)))
);


--
-- Name: partitions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.partitions (
    p integer NOT NULL,
    epoch bigint DEFAULT 0 NOT NULL,
    identity text,
    began_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE partitions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.partitions IS 'The life of the Redis server that holds a partition: numbered, so that an old one is known.';


--
-- Name: payment_comparisons; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_comparisons (
    provider text NOT NULL,
    asked_since timestamp with time zone,
    since timestamp with time zone,
    began_at timestamp with time zone,
    ended_at timestamp with time zone,
    compared integer DEFAULT 0 NOT NULL,
    differences integer DEFAULT 0 NOT NULL,
    error text
);


--
-- Name: TABLE payment_comparisons; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.payment_comparisons IS 'The last comparison with each provider, and since when an operator has asked for another one.';


--
-- Name: payment_customers; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_customers (
    account_id text NOT NULL,
    provider text NOT NULL,
    generation integer DEFAULT 1 NOT NULL,
    customer_id text,
    method text
);


--
-- Name: COLUMN payment_customers.generation; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_customers.generation IS 'Raised when the provider has lost the customer: the next one is made under another idempotency key.';


--
-- Name: payment_differences; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_differences (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    account_id text,
    order_id text,
    difference text NOT NULL,
    found_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE payment_differences; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.payment_differences IS 'Objects whose state at the provider was not ours when they were last compared, and still is not.';


--
-- Name: payment_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_events (
    provider text NOT NULL,
    id text NOT NULL,
    number text NOT NULL,
    type text NOT NULL,
    ref_kind text,
    ref_id text,
    livemode boolean NOT NULL,
    body bytea NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    created_at timestamp with time zone NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    claimed_by text,
    CONSTRAINT payment_events_check CHECK (((ref_kind IS NULL) = (ref_id IS NULL))),
    CONSTRAINT payment_events_state_check CHECK ((state = ANY (ARRAY['waiting'::text, 'done'::text, 'ignored'::text, 'parked'::text])))
);


--
-- Name: TABLE payment_events; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.payment_events IS 'Hints of providers: each names an object, which is fetched anew. What it moves is made once by the ids of the money; a row only says that the hint was looked into.';


--
-- Name: COLUMN payment_events.number; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_events.number IS 'Our own id of it, a ULID: pages follow it.';


--
-- Name: COLUMN payment_events.state; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_events.state IS 'ignored: of no object, or of another mode; parked: given up after many tries.';


--
-- Name: COLUMN payment_events.created_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_events.created_at IS 'When it happened, in whole seconds at some providers: no order follows from it.';


--
-- Name: COLUMN payment_events.claimed_by; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_events.claimed_by IS 'The gateway that looks into it now; null: none does, or it does not say.';


--
-- Name: payment_movements; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_movements (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    order_id text,
    amount_cents bigint NOT NULL,
    moved_nano bigint DEFAULT 0 NOT NULL,
    transfers integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    free_nano bigint,
    CONSTRAINT payment_movements_kind_check CHECK ((kind = ANY (ARRAY['refund'::text, 'dispute'::text])))
);


--
-- Name: TABLE payment_movements; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.payment_movements IS 'What each refund, and each balance movement of a dispute, has taken from the account (moved_nano below zero) or brought.';


--
-- Name: COLUMN payment_movements.free_nano; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_movements.free_nano IS 'What would have been left of the purchase when this moved, had no refund and no dispute of it moved anything.';


--
-- Name: payment_objects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payment_objects (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    account_id text,
    order_id text,
    asked bigint DEFAULT 0 NOT NULL,
    applied bigint DEFAULT 0 NOT NULL,
    state jsonb,
    created_at timestamp with time zone,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN payment_objects.asked; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.payment_objects.asked IS 'Counted on before each fetch. An answer is applied only if none was that was asked for later, so that an old state never follows a newer one.';


--
-- Name: payment_returns; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.payment_returns AS
 SELECT p.provider,
    p.id AS payment_id,
    p.account_id,
    p.order_id,
    (p.state ->> 'currency'::text) AS currency,
    'refund'::text AS kind,
    (r.value ->> 'id'::text) AS id,
    (r.value ->> 'status'::text) AS status,
    ((r.value ->> 'amount_cents'::text))::bigint AS cents,
    ((r.value ->> 'created_at'::text))::timestamp with time zone AS created_at
   FROM public.payment_objects p,
    LATERAL jsonb_array_elements((p.state -> 'refunds'::text)) r(value)
  WHERE ((p.kind = 'payment'::text) AND ((p.state -> 'refunds'::text) <> '[]'::jsonb) AND ((r.value ->> 'status'::text) <> ALL (ARRAY['failed'::text, 'canceled'::text])))
UNION ALL
 SELECT p.provider,
    p.id AS payment_id,
    p.account_id,
    p.order_id,
    (p.state ->> 'currency'::text) AS currency,
    'dispute'::text AS kind,
    (m.value ->> 'id'::text) AS id,
    (d.value ->> 'status'::text) AS status,
    (- ((m.value ->> 'amount_cents'::text))::bigint) AS cents,
    ((m.value ->> 'created_at'::text))::timestamp with time zone AS created_at
   FROM public.payment_objects p,
    LATERAL jsonb_array_elements((p.state -> 'disputes'::text)) d(value),
    LATERAL jsonb_array_elements((d.value -> 'movements'::text)) m(value)
  WHERE ((p.kind = 'payment'::text) AND ((p.state -> 'disputes'::text) <> '[]'::jsonb));


--
-- Name: payments_parked; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.payments_parked (
    id text NOT NULL,
    provider text NOT NULL,
    kind text NOT NULL,
    object_id text NOT NULL,
    account_id text,
    order_id text,
    amount_cents bigint NOT NULL,
    currency text NOT NULL,
    reason text NOT NULL,
    state text DEFAULT 'parked'::text NOT NULL,
    transfer_id text,
    note text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT payments_parked_amount_cents_check CHECK ((amount_cents >= 0)),
    CONSTRAINT payments_parked_state_check CHECK ((state = ANY (ARRAY['parked'::text, 'credited'::text, 'dismissed'::text])))
);


--
-- Name: TABLE payments_parked; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.payments_parked IS 'Money that came to sys:stripe and could not be credited: it waits for an operator, who credits or dismisses it.';


--
-- Name: plan_revisions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.plan_revisions (
    revision bigint NOT NULL,
    digest bytea NOT NULL,
    version integer DEFAULT 0 NOT NULL,
    said jsonb NOT NULL,
    first_seen_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT plan_revisions_version_check CHECK ((version >= 0))
);


--
-- Name: COLUMN plan_revisions.version; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.plan_revisions.version IS 'What the file says of itself: `version` in plans.yaml, 0 where it says nothing.';


--
-- Name: plans; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.plans (
    id text NOT NULL,
    digest text NOT NULL
);


--
-- Name: TABLE plans; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.plans IS 'What each plan said last, as a digest: a change raises the version of its accounts.';


--
-- Name: prices; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.prices (
    id text NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    effective_from date NOT NULL,
    said text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN prices.said; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.prices.said IS 'The row as canonical JSON; the id is a digest of it, so a row never changes.';


--
-- Name: provider_bill_lines; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.provider_bill_lines (
    provider text NOT NULL,
    source text NOT NULL,
    day date NOT NULL,
    model text NOT NULL,
    key text NOT NULL,
    line text NOT NULL,
    requests bigint,
    input_tokens bigint,
    output_tokens bigint,
    amount_nano bigint,
    fetched_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT provider_bill_lines_source_check CHECK ((source = ANY (ARRAY['api'::text, 'invoice'::text])))
);


--
-- Name: TABLE provider_bill_lines; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.provider_bill_lines IS 'Lines of days are replaced whole by those of a later bill from the same source.';


--
-- Name: COLUMN provider_bill_lines.key; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.provider_bill_lines.key IS 'The provider''s own id of a key, project or workspace; empty where it names none.';


--
-- Name: COLUMN provider_bill_lines.amount_nano; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.provider_bill_lines.amount_nano IS 'Null on lines that count and name no amount, as counts are on the others.';


--
-- Name: provider_changes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.provider_changes (
    id bigint NOT NULL,
    provider text NOT NULL,
    target integer NOT NULL,
    at timestamp with time zone NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    CONSTRAINT provider_changes_state_check CHECK ((state = ANY (ARRAY['open'::text, 'closed'::text])))
);


--
-- Name: TABLE provider_changes; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.provider_changes IS 'When the circuit of a provider''s target opened and closed, and after which failure.';


--
-- Name: provider_changes_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.provider_changes ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.provider_changes_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: provider_comparisons; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.provider_comparisons (
    provider text NOT NULL,
    since date NOT NULL,
    until date NOT NULL,
    ours_nano numeric NOT NULL,
    theirs_nano numeric NOT NULL,
    difference_nano numeric NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN provider_comparisons.difference_nano; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.provider_comparisons.difference_nano IS 'The sum of the differences of what did not match, each taken as above zero.';


--
-- Name: provider_failures; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.provider_failures (
    provider text NOT NULL,
    at timestamp with time zone NOT NULL,
    reason text NOT NULL
);


--
-- Name: TABLE provider_failures; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.provider_failures IS 'The last failed attempt at each provider.';


--
-- Name: provider_objects; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.provider_objects (
    object_id text NOT NULL,
    provider text NOT NULL,
    account_id text NOT NULL,
    kind text NOT NULL,
    model text NOT NULL,
    total_tokens bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT provider_objects_total_tokens_check CHECK ((total_tokens >= 0))
);


--
-- Name: COLUMN provider_objects.model; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.provider_objects.model IS 'The name at the provider of the model that made it, which leads back to the provider.';


--
-- Name: COLUMN provider_objects.total_tokens; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.provider_objects.total_tokens IS 'What the provider counted: it bounds what going on from here brings as input.';


--
-- Name: recovery_codes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.recovery_codes (
    user_id text NOT NULL,
    digest bytea NOT NULL,
    used_at timestamp with time zone
);


--
-- Name: refresh_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.refresh_tokens (
    digest bytea NOT NULL,
    session_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    rotated_at timestamp with time zone,
    salt bytea
);


--
-- Name: COLUMN refresh_tokens.salt; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.refresh_tokens.salt IS 'Its successor is the HMAC of this by the token itself: only who has the old one, and this, can tell the new one.';


--
-- Name: revoked_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.revoked_tokens (
    jti text NOT NULL,
    user_id text NOT NULL,
    reason text,
    revoked_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL
);


--
-- Name: COLUMN revoked_tokens.user_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.revoked_tokens.user_id IS 'Whose token it is, by whom it was revoked: it counts for that user alone. Empty: an operator revoked it.';


--
-- Name: scim_group_members; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.scim_group_members (
    group_id text NOT NULL,
    member_id text NOT NULL
);


--
-- Name: scim_groups; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.scim_groups (
    id text NOT NULL,
    org_id text NOT NULL,
    name text NOT NULL,
    external_id text,
    resource jsonb NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN scim_groups.name; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.scim_groups.name IS 'As it is compared: in one case.';


--
-- Name: scim_tokens; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.scim_tokens (
    id text NOT NULL,
    org_id text NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    digest bytea NOT NULL,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone,
    revoked_at timestamp with time zone
);


--
-- Name: scim_users; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.scim_users (
    id text NOT NULL,
    org_id text NOT NULL,
    user_name text NOT NULL,
    email text,
    external_id text,
    active boolean NOT NULL,
    user_id text,
    resource jsonb NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT scim_users_email_check CHECK ((email = lower(email)))
);


--
-- Name: COLUMN scim_users.user_name; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.scim_users.user_name IS 'As it is compared: in one case.';


--
-- Name: service_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.service_events (
    account_id text NOT NULL,
    event_id text NOT NULL,
    digest bytea NOT NULL,
    request_id text NOT NULL,
    answer text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE service_events; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.service_events IS 'Each event, debit and hold of a service once: written in the transaction of its debit, or of its hold.';


--
-- Name: COLUMN service_events.digest; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.service_events.digest IS 'Of what was asked: the same id with another one is a conflict.';


--
-- Name: COLUMN service_events.answer; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.service_events.answer IS 'The first answer, which the same ask gets again.';


--
-- Name: service_holds; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.service_holds (
    id text NOT NULL,
    account_id text NOT NULL,
    event_id text NOT NULL,
    service text NOT NULL,
    partition integer NOT NULL,
    payload bytea NOT NULL,
    state text DEFAULT 'held'::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    end_event_id text,
    end_digest bytea,
    end_answer text,
    CONSTRAINT service_holds_state_check CHECK ((state = ANY (ARRAY['held'::text, 'settled'::text, 'voided'::text, 'expired'::text])))
);


--
-- Name: COLUMN service_holds.id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.service_holds.id IS 'Also the request id of its entry in Redis, and of its debit.';


--
-- Name: COLUMN service_holds.partition; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.service_holds.partition IS 'Of its account in Redis, which has it held as long as its state is held.';


--
-- Name: COLUMN service_holds.payload; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.service_holds.payload IS 'The debit that it would be if all of it were used, as the journal has it.';


--
-- Name: sessions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.sessions (
    id text NOT NULL,
    user_id text,
    kind text DEFAULT 'token'::text NOT NULL,
    org_id text,
    scopes text[],
    cookie_digest bytea,
    address text,
    user_agent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_used_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    end_reason text,
    provider text,
    domain text,
    seen_account text,
    seen_until timestamp with time zone,
    CONSTRAINT sessions_kind_check CHECK ((kind = ANY (ARRAY['token'::text, 'browser'::text, 'operator'::text]))),
    CONSTRAINT sessions_whose CHECK (((user_id IS NOT NULL) OR (kind = 'operator'::text)))
);


--
-- Name: TABLE sessions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.sessions IS 'A sign-in: the family of its refresh tokens, or a browser. Ending it ends every token of it.';


--
-- Name: COLUMN sessions.scopes; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.sessions.scopes IS 'What its tokens are narrowed to; null: all that the role allows.';


--
-- Name: COLUMN sessions.cookie_digest; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.sessions.cookie_digest IS 'SHA-256 of a browser''s cookie; an operator''s without a user is the HMAC of it by the admin key.';


--
-- Name: COLUMN sessions.domain; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.sessions.domain IS 'Of the address that the provider has verified; null where it has verified none.';


--
-- Name: COLUMN sessions.seen_account; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.sessions.seen_account IS 'Of an operator''s: the account whose pages they see as its customer does, up to seen_until.';


--
-- Name: sign_in_tries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.sign_in_tries (
    subject text NOT NULL,
    failures integer NOT NULL,
    blocked_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE sign_in_tries; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.sign_in_tries IS 'Tries that have not succeeded, by what is guessed at: a password, by the digest of its address, or a second factor.';


--
-- Name: signing_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.signing_keys (
    kid text NOT NULL,
    private_pem text NOT NULL,
    public_jwk jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    active_from timestamp with time zone NOT NULL,
    retired_at timestamp with time zone
);


--
-- Name: COLUMN signing_keys.active_from; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.signing_keys.active_from IS 'From when on it signs; it is published before.';


--
-- Name: COLUMN signing_keys.retired_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.signing_keys.retired_at IS 'Until when it verifies, once another one signs; its private part is gone then.';


--
-- Name: spent_payment_keys; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.spent_payment_keys (
    key text NOT NULL,
    generation integer NOT NULL,
    spent_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT spent_payment_keys_generation_check CHECK ((generation > 1))
);


--
-- Name: subscription_changes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.subscription_changes (
    provider text NOT NULL,
    id text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    plan text,
    mrr_nano bigint NOT NULL,
    CONSTRAINT subscription_changes_mrr_nano_check CHECK ((mrr_nano >= 0))
);


--
-- Name: COLUMN subscription_changes.mrr_nano; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.subscription_changes.mrr_nano IS 'The price of the plan when it came into force; 0: nothing is paid for it any more.';


--
-- Name: subscriptions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.subscriptions (
    provider text NOT NULL,
    id text NOT NULL,
    account_id text NOT NULL,
    status text NOT NULL,
    plan text,
    next_plan text,
    period_start timestamp with time zone NOT NULL,
    period_end timestamp with time zone NOT NULL,
    ends_at timestamp with time zone,
    past_due_since timestamp with time zone,
    asked bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN subscriptions.plan; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.subscriptions.plan IS 'Ours of that price; null: the price is of no plan, and was never of one.';


--
-- Name: COLUMN subscriptions.past_due_since; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.subscriptions.past_due_since IS 'When we first saw that it is not paid, while it is not.';


--
-- Name: COLUMN subscriptions.asked; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.subscriptions.asked IS 'Counted on before each change that we ask for: part of its idempotency key.';


--
-- Name: traffic; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.traffic (
    granularity smallint NOT NULL,
    bucket timestamp with time zone NOT NULL,
    what text NOT NULL,
    name text NOT NULL,
    detail text NOT NULL,
    count bigint NOT NULL,
    buckets bigint[],
    CONSTRAINT traffic_granularity_check CHECK (((granularity >= 0) AND (granularity <= 1)))
)
WITH (fillfactor='80');


--
-- Name: COLUMN traffic.granularity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.traffic.granularity IS '0 five minutes, 1 hour; buckets begin in UTC.';


--
-- Name: COLUMN traffic.what; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.traffic.what IS 'What is counted, as billing/traffic/ names it.';


--
-- Name: COLUMN traffic.name; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.traffic.name IS 'The provider; of a refusal its code.';


--
-- Name: COLUMN traffic.detail; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.traffic.detail IS 'The status or the reason, where there is one.';


--
-- Name: COLUMN traffic.buckets; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.traffic.buckets IS 'Of times: how many were in each bucket of a histogram.';


--
-- Name: transfers; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.transfers (
    id text NOT NULL,
    debit_account text NOT NULL,
    credit_account text NOT NULL,
    amount_nano bigint NOT NULL,
    kind text NOT NULL,
    idempotency_scope text,
    idempotency_key text,
    request_digest bytea,
    request_id text,
    note text,
    metadata jsonb,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT transfers_amount_nano_check CHECK (((amount_nano >= 1) AND (amount_nano <= '9007199254740991'::bigint))),
    CONSTRAINT transfers_check CHECK ((debit_account <> credit_account)),
    CONSTRAINT transfers_kind_check CHECK ((kind = ANY (ARRAY['usage'::text, 'purchase'::text, 'grant'::text, 'refund'::text, 'adjustment'::text, 'expiry'::text, 'dispute'::text, 'subscription'::text])))
);


--
-- Name: TABLE transfers; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.transfers IS 'Append-only double entry: a row takes from debit_account and gives to credit_account. The id of a usage transfer is its request id, so that a request is debited at most once. System accounts are named sys:revenue, sys:stripe, sys:promotions, sys:write_off.';


--
-- Name: troubles; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.troubles (
    about text NOT NULL,
    message text NOT NULL,
    told_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN troubles.about; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.troubles.about IS 'What it is about, such as provider:openai or postgres: told once until it has ended.';


--
-- Name: usage_by_account; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_by_account (
    granularity smallint NOT NULL,
    bucket timestamp with time zone NOT NULL,
    account_id text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    CONSTRAINT usage_by_account_granularity_check CHECK (((granularity >= 2) AND (granularity <= 3)))
)
WITH (fillfactor='80');


--
-- Name: COLUMN usage_by_account.granularity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_account.granularity IS '2 day, 3 month; buckets begin in UTC.';


--
-- Name: usage_by_model; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_by_model (
    granularity smallint NOT NULL,
    bucket timestamp with time zone NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    requests bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    CONSTRAINT usage_by_model_granularity_check CHECK (((granularity >= 1) AND (granularity <= 3)))
)
WITH (fillfactor='80');


--
-- Name: COLUMN usage_by_model.granularity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_model.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';


--
-- Name: usage_by_names; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_by_names (
    account_id text NOT NULL,
    tag bigint NOT NULL,
    dimension smallint NOT NULL,
    granularity smallint NOT NULL,
    bucket timestamp with time zone NOT NULL,
    dimension_value text NOT NULL COLLATE pg_catalog."C",
    value bigint NOT NULL,
    requests bigint NOT NULL,
    input_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cost_nano numeric NOT NULL,
    charged_nano numeric NOT NULL,
    CONSTRAINT usage_by_names_dimension_check CHECK (((dimension >= 0) AND (dimension <= 6))),
    CONSTRAINT usage_by_names_granularity_check CHECK (((granularity >= 1) AND (granularity <= 3)))
)
WITH (fillfactor='80');


--
-- Name: TABLE usage_by_names; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.usage_by_names IS 'Of each account in usage_folds: all requests that were admitted before its moment, and no others, by at most one tag and one dimension.';


--
-- Name: COLUMN usage_by_names.tag; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_names.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';


--
-- Name: COLUMN usage_by_names.dimension; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_names.dimension IS '1 key, 2 user, 3 model, 4 provider, 5 endpoint, 6 feature. 0: all together.';


--
-- Name: COLUMN usage_by_names.granularity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_names.granularity IS '1 hour, 2 day, 3 month; buckets begin in UTC.';


--
-- Name: COLUMN usage_by_names.dimension_value; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_names.dimension_value IS 'The value of the dimension. Empty with dimension 0.';


--
-- Name: COLUMN usage_by_names.value; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_by_names.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';


--
-- Name: usage_dimensions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_dimensions (
    id bigint NOT NULL,
    account_id text NOT NULL,
    key_id text NOT NULL,
    user_id text NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    endpoint text NOT NULL,
    feature text NOT NULL
);


--
-- Name: TABLE usage_dimensions; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.usage_dimensions IS 'Each combination that an account has used. user_id is empty for a key of nobody.';


--
-- Name: usage_dimensions_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.usage_dimensions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.usage_dimensions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: usage_written; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.usage_written
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: usage_events; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_events (
    request_id text NOT NULL,
    admitted_at timestamp with time zone NOT NULL,
    outcome text NOT NULL,
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
    cost_nano bigint NOT NULL,
    charged_nano bigint NOT NULL,
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
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    by_model jsonb,
    wseq bigint DEFAULT 
CASE
    WHEN (pg_current_xact_id() IS NOT NULL) THEN nextval('public.usage_written'::regclass)
    ELSE NULL::bigint
END,
    session text,
    agent text,
    parent_agent text,
    tool text,
    tool_version text,
    attempts integer DEFAULT 1 NOT NULL,
    CONSTRAINT usage_events_charged_nano_check CHECK (((charged_nano >= 0) AND (charged_nano <= '9007199254740991'::bigint))),
    CONSTRAINT usage_events_cost_nano_check CHECK ((cost_nano >= 0)),
    CONSTRAINT usage_events_outcome_check CHECK ((outcome = ANY (ARRAY['settled'::text, 'expired'::text])))
)
PARTITION BY RANGE (admitted_at);


--
-- Name: COLUMN usage_events.counts; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.counts IS 'Counts of the classes without a column of their own, by the names in billing/usage.py.';


--
-- Name: COLUMN usage_events.dseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.dseq IS 'The place of this debit among those that Redis has counted for its account in its epoch.';


--
-- Name: COLUMN usage_events.xseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.xseq IS 'Set when Redis has not counted this debit itself: the number of its correction.';


--
-- Name: COLUMN usage_events.by_model; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.by_model IS 'Where several models used something: a list of {model, price_id, variant, counts}. The columns are their totals.';


--
-- Name: COLUMN usage_events.wseq; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.wseq IS 'Its place among all that were written, for exports.';


--
-- Name: COLUMN usage_events.session; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.session IS 'The conversation that the request belongs to, as its client names it.';


--
-- Name: COLUMN usage_events.agent; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.agent IS 'Which of several agents of a session has sent it; parent_agent has begun that one.';


--
-- Name: COLUMN usage_events.tool; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.tool IS 'One of the tools and libraries that gateways know by their headers.';


--
-- Name: COLUMN usage_events.attempts; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_events.attempts IS 'At providers, until one answered.';


--
-- Name: usage_events_month_0; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_events_month_0 (
    request_id text CONSTRAINT usage_events_request_id_not_null NOT NULL,
    admitted_at timestamp with time zone CONSTRAINT usage_events_admitted_at_not_null NOT NULL,
    outcome text CONSTRAINT usage_events_outcome_not_null NOT NULL,
    account_id text CONSTRAINT usage_events_account_id_not_null NOT NULL,
    user_id text,
    key_id text CONSTRAINT usage_events_key_id_not_null NOT NULL,
    client_request_id text,
    upstream_request_id text,
    endpoint text CONSTRAINT usage_events_endpoint_not_null NOT NULL,
    feature text CONSTRAINT usage_events_feature_not_null NOT NULL,
    model text CONSTRAINT usage_events_model_not_null NOT NULL,
    provider text CONSTRAINT usage_events_provider_not_null NOT NULL,
    provider_model text CONSTRAINT usage_events_provider_model_not_null NOT NULL,
    input_tokens bigint CONSTRAINT usage_events_input_tokens_not_null NOT NULL,
    cached_input_tokens bigint CONSTRAINT usage_events_cached_input_tokens_not_null NOT NULL,
    cache_write_tokens bigint CONSTRAINT usage_events_cache_write_tokens_not_null NOT NULL,
    output_tokens bigint CONSTRAINT usage_events_output_tokens_not_null NOT NULL,
    reasoning_tokens bigint CONSTRAINT usage_events_reasoning_tokens_not_null NOT NULL,
    counts jsonb,
    cost_nano bigint CONSTRAINT usage_events_cost_nano_not_null NOT NULL,
    charged_nano bigint CONSTRAINT usage_events_charged_nano_not_null NOT NULL,
    price_id text CONSTRAINT usage_events_price_id_not_null NOT NULL,
    multiplier text,
    markup_scaled bigint CONSTRAINT usage_events_markup_scaled_not_null NOT NULL,
    estimated boolean CONSTRAINT usage_events_estimated_not_null NOT NULL,
    status integer CONSTRAINT usage_events_status_not_null NOT NULL,
    stream boolean CONSTRAINT usage_events_stream_not_null NOT NULL,
    latency_ms integer,
    ttft_ms integer,
    tags jsonb,
    end_user text,
    note text,
    epoch bigint,
    dseq bigint,
    xseq bigint,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT usage_events_created_at_not_null NOT NULL,
    by_model jsonb,
    wseq bigint DEFAULT 
CASE
    WHEN (pg_current_xact_id() IS NOT NULL) THEN nextval('public.usage_written'::regclass)
    ELSE NULL::bigint
END,
    session text,
    agent text,
    parent_agent text,
    tool text,
    tool_version text,
    attempts integer DEFAULT 1 CONSTRAINT usage_events_attempts_not_null NOT NULL,
    CONSTRAINT usage_events_charged_nano_check CHECK (((charged_nano >= 0) AND (charged_nano <= '9007199254740991'::bigint))),
    CONSTRAINT usage_events_cost_nano_check CHECK ((cost_nano >= 0)),
    CONSTRAINT usage_events_outcome_check CHECK ((outcome = ANY (ARRAY['settled'::text, 'expired'::text])))
);


--
-- Name: usage_events_month_1; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_events_month_1 (
    request_id text CONSTRAINT usage_events_request_id_not_null NOT NULL,
    admitted_at timestamp with time zone CONSTRAINT usage_events_admitted_at_not_null NOT NULL,
    outcome text CONSTRAINT usage_events_outcome_not_null NOT NULL,
    account_id text CONSTRAINT usage_events_account_id_not_null NOT NULL,
    user_id text,
    key_id text CONSTRAINT usage_events_key_id_not_null NOT NULL,
    client_request_id text,
    upstream_request_id text,
    endpoint text CONSTRAINT usage_events_endpoint_not_null NOT NULL,
    feature text CONSTRAINT usage_events_feature_not_null NOT NULL,
    model text CONSTRAINT usage_events_model_not_null NOT NULL,
    provider text CONSTRAINT usage_events_provider_not_null NOT NULL,
    provider_model text CONSTRAINT usage_events_provider_model_not_null NOT NULL,
    input_tokens bigint CONSTRAINT usage_events_input_tokens_not_null NOT NULL,
    cached_input_tokens bigint CONSTRAINT usage_events_cached_input_tokens_not_null NOT NULL,
    cache_write_tokens bigint CONSTRAINT usage_events_cache_write_tokens_not_null NOT NULL,
    output_tokens bigint CONSTRAINT usage_events_output_tokens_not_null NOT NULL,
    reasoning_tokens bigint CONSTRAINT usage_events_reasoning_tokens_not_null NOT NULL,
    counts jsonb,
    cost_nano bigint CONSTRAINT usage_events_cost_nano_not_null NOT NULL,
    charged_nano bigint CONSTRAINT usage_events_charged_nano_not_null NOT NULL,
    price_id text CONSTRAINT usage_events_price_id_not_null NOT NULL,
    multiplier text,
    markup_scaled bigint CONSTRAINT usage_events_markup_scaled_not_null NOT NULL,
    estimated boolean CONSTRAINT usage_events_estimated_not_null NOT NULL,
    status integer CONSTRAINT usage_events_status_not_null NOT NULL,
    stream boolean CONSTRAINT usage_events_stream_not_null NOT NULL,
    latency_ms integer,
    ttft_ms integer,
    tags jsonb,
    end_user text,
    note text,
    epoch bigint,
    dseq bigint,
    xseq bigint,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT usage_events_created_at_not_null NOT NULL,
    by_model jsonb,
    wseq bigint DEFAULT 
CASE
    WHEN (pg_current_xact_id() IS NOT NULL) THEN nextval('public.usage_written'::regclass)
    ELSE NULL::bigint
END,
    session text,
    agent text,
    parent_agent text,
    tool text,
    tool_version text,
    attempts integer DEFAULT 1 CONSTRAINT usage_events_attempts_not_null NOT NULL,
    CONSTRAINT usage_events_charged_nano_check CHECK (((charged_nano >= 0) AND (charged_nano <= '9007199254740991'::bigint))),
    CONSTRAINT usage_events_cost_nano_check CHECK ((cost_nano >= 0)),
    CONSTRAINT usage_events_outcome_check CHECK ((outcome = ANY (ARRAY['settled'::text, 'expired'::text])))
);


--
-- Name: usage_events_month_2; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_events_month_2 (
    request_id text CONSTRAINT usage_events_request_id_not_null NOT NULL,
    admitted_at timestamp with time zone CONSTRAINT usage_events_admitted_at_not_null NOT NULL,
    outcome text CONSTRAINT usage_events_outcome_not_null NOT NULL,
    account_id text CONSTRAINT usage_events_account_id_not_null NOT NULL,
    user_id text,
    key_id text CONSTRAINT usage_events_key_id_not_null NOT NULL,
    client_request_id text,
    upstream_request_id text,
    endpoint text CONSTRAINT usage_events_endpoint_not_null NOT NULL,
    feature text CONSTRAINT usage_events_feature_not_null NOT NULL,
    model text CONSTRAINT usage_events_model_not_null NOT NULL,
    provider text CONSTRAINT usage_events_provider_not_null NOT NULL,
    provider_model text CONSTRAINT usage_events_provider_model_not_null NOT NULL,
    input_tokens bigint CONSTRAINT usage_events_input_tokens_not_null NOT NULL,
    cached_input_tokens bigint CONSTRAINT usage_events_cached_input_tokens_not_null NOT NULL,
    cache_write_tokens bigint CONSTRAINT usage_events_cache_write_tokens_not_null NOT NULL,
    output_tokens bigint CONSTRAINT usage_events_output_tokens_not_null NOT NULL,
    reasoning_tokens bigint CONSTRAINT usage_events_reasoning_tokens_not_null NOT NULL,
    counts jsonb,
    cost_nano bigint CONSTRAINT usage_events_cost_nano_not_null NOT NULL,
    charged_nano bigint CONSTRAINT usage_events_charged_nano_not_null NOT NULL,
    price_id text CONSTRAINT usage_events_price_id_not_null NOT NULL,
    multiplier text,
    markup_scaled bigint CONSTRAINT usage_events_markup_scaled_not_null NOT NULL,
    estimated boolean CONSTRAINT usage_events_estimated_not_null NOT NULL,
    status integer CONSTRAINT usage_events_status_not_null NOT NULL,
    stream boolean CONSTRAINT usage_events_stream_not_null NOT NULL,
    latency_ms integer,
    ttft_ms integer,
    tags jsonb,
    end_user text,
    note text,
    epoch bigint,
    dseq bigint,
    xseq bigint,
    created_at timestamp with time zone DEFAULT now() CONSTRAINT usage_events_created_at_not_null NOT NULL,
    by_model jsonb,
    wseq bigint DEFAULT 
CASE
    WHEN (pg_current_xact_id() IS NOT NULL) THEN nextval('public.usage_written'::regclass)
    ELSE NULL::bigint
END,
    session text,
    agent text,
    parent_agent text,
    tool text,
    tool_version text,
    attempts integer DEFAULT 1 CONSTRAINT usage_events_attempts_not_null NOT NULL,
    CONSTRAINT usage_events_charged_nano_check CHECK (((charged_nano >= 0) AND (charged_nano <= '9007199254740991'::bigint))),
    CONSTRAINT usage_events_cost_nano_check CHECK ((cost_nano >= 0)),
    CONSTRAINT usage_events_outcome_check CHECK ((outcome = ANY (ARRAY['settled'::text, 'expired'::text])))
);


--
-- Name: usage_folds; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_folds (
    account_id text NOT NULL,
    until timestamp with time zone NOT NULL,
    caught_up boolean NOT NULL
);


--
-- Name: TABLE usage_folds; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.usage_folds IS 'Accounts whose hours before a moment are in usage_by_names, too; read from there once they are caught up.';


--
-- Name: usage_fresh; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_fresh (
    admitted_at timestamp with time zone NOT NULL,
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
    CONSTRAINT usage_fresh_check CHECK ((GREATEST(input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens) < '1099511627776'::bigint))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000', autovacuum_vacuum_cost_delay='0', autovacuum_analyze_scale_factor='0', autovacuum_analyze_threshold='5000');


--
-- Name: TABLE usage_fresh; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.usage_fresh IS 'Requests that count and that the rollups do not have yet: one row each, moved within seconds.';


--
-- Name: usage_months_dropped; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_months_dropped (
    month date NOT NULL,
    account_id text NOT NULL,
    requests bigint NOT NULL,
    counted_nano numeric NOT NULL,
    charges bigint NOT NULL,
    charged_nano numeric NOT NULL,
    dropped_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: COLUMN usage_months_dropped.requests; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_months_dropped.requests IS 'Events that the rollups count; counted_nano is what they were charged.';


--
-- Name: COLUMN usage_months_dropped.charges; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_months_dropped.charges IS 'Events that have a transfer; charged_nano is the sum of these.';


--
-- Name: usage_sums; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_sums (
    account_id text NOT NULL,
    granularity smallint NOT NULL,
    tag bigint NOT NULL,
    bucket timestamp with time zone NOT NULL,
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
    CONSTRAINT usage_sums_granularity_check CHECK (((granularity >= 0) AND (granularity <= 3)))
)
WITH (fillfactor='80');


--
-- Name: COLUMN usage_sums.granularity; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_sums.granularity IS '0 minute, 1 hour, 2 day, 3 month; buckets begin in UTC.';


--
-- Name: COLUMN usage_sums.tag; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_sums.tag IS 'usage_tags.id of a name: requests that have this tag. 0: all requests, once.';


--
-- Name: COLUMN usage_sums.value; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.usage_sums.value IS 'usage_tags.id of a value, or of the name for all values that have no row. 0 with tag 0.';


--
-- Name: usage_rollups; Type: VIEW; Schema: public; Owner: -
--

CREATE VIEW public.usage_rollups AS
 SELECT s.account_id,
    s.granularity,
    s.bucket,
    d.key_id,
    d.model,
    d.feature,
    s.requests,
    s.input_tokens,
    s.cached_input_tokens,
    s.cache_write_tokens,
    s.output_tokens,
    s.reasoning_tokens,
    s.cost_nano,
    s.charged_nano
   FROM (public.usage_sums s
     JOIN public.usage_dimensions d ON (((d.id = s.dimensions) AND (d.account_id = s.account_id))))
  WHERE (s.tag = 0);


--
-- Name: VIEW usage_rollups; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON VIEW public.usage_rollups IS 'All requests, once; of one key, model and feature there may be several rows.';


--
-- Name: usage_tags; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.usage_tags (
    id bigint NOT NULL,
    account_id text NOT NULL,
    name text NOT NULL,
    value text
);


--
-- Name: TABLE usage_tags; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.usage_tags IS 'Names of tags that are summed, with a null value, and their values: the first ones of each account, because clients choose them. Later values of a name are summed together under the row of the name.';


--
-- Name: usage_tags_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

ALTER TABLE public.usage_tags ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.usage_tags_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: user_identities; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.user_identities (
    issuer text NOT NULL,
    subject text NOT NULL,
    user_id text NOT NULL,
    email text,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE user_identities; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.user_identities IS 'Whom other issuers sign in: by (issuer, subject), never by an address.';


--
-- Name: COLUMN user_identities.email; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.user_identities.email IS 'What the issuer says, proven or not: to reach somebody by, never to find a user by.';


--
-- Name: users; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.users (
    id text NOT NULL,
    email text,
    email_verified_at timestamp with time zone,
    name text DEFAULT ''::text NOT NULL,
    tz text,
    password_hash text,
    status text DEFAULT 'pending'::text NOT NULL,
    operator boolean DEFAULT false NOT NULL,
    totp_secret text,
    totp_confirmed_at timestamp with time zone,
    totp_last_step bigint,
    tokens_valid_from timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    last_sign_in_at timestamp with time zone,
    CONSTRAINT users_email_check CHECK ((email = lower(email))),
    CONSTRAINT users_status_check CHECK ((status = ANY (ARRAY['pending'::text, 'active'::text, 'disabled'::text])))
);


--
-- Name: COLUMN users.email; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.users.email IS 'In lower case; null for whom another issuer signs in and whose address nobody has proven.';


--
-- Name: COLUMN users.tz; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.users.tz IS 'The time zone that pages show times in; null: that of the account.';


--
-- Name: COLUMN users.status; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.users.status IS 'pending: registered, and not let in yet by the approval policy.';


--
-- Name: COLUMN users.totp_last_step; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.users.totp_last_step IS 'The last time step whose code was taken: no code is taken twice (RFC 6238, 5.2).';


--
-- Name: COLUMN users.tokens_valid_from; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.users.tokens_valid_from IS 'Tokens that were issued before are refused: all were revoked, or the password changed.';


--
-- Name: webhook_deliveries; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_deliveries (
    id text DEFAULT ('whd_'::text || replace((gen_random_uuid())::text, '-'::text, ''::text)) NOT NULL,
    notice_id text NOT NULL,
    endpoint_id text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    delivered_at timestamp with time zone,
    parked_at timestamp with time zone,
    status integer,
    error text
);


--
-- Name: COLUMN webhook_deliveries.endpoint_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_deliveries.endpoint_id IS 'Where to; null: NOTIFICATION_WEBHOOK.';


--
-- Name: COLUMN webhook_deliveries.parked_at; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_deliveries.parked_at IS 'When it was given up; it can be delivered by hand.';


--
-- Name: COLUMN webhook_deliveries.status; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_deliveries.status IS 'What the last answer said, where there was one.';


--
-- Name: webhook_endpoints; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.webhook_endpoints (
    id text NOT NULL,
    account_id text,
    url text NOT NULL,
    format text DEFAULT 'json'::text NOT NULL,
    routing_key text,
    secret text NOT NULL,
    old_secret text,
    old_secret_until timestamp with time zone,
    types text[],
    description text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    failing_since timestamp with time zone,
    disabled_at timestamp with time zone,
    disabled_reason text,
    CONSTRAINT webhook_endpoints_check CHECK (((routing_key IS NOT NULL) = (format = 'pagerduty'::text))),
    CONSTRAINT webhook_endpoints_format_check CHECK ((format = ANY (ARRAY['json'::text, 'slack'::text, 'teams'::text, 'pagerduty'::text])))
);


--
-- Name: COLUMN webhook_endpoints.account_id; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.account_id IS 'Whose notices it gets; null: those of all accounts, as operators do.';


--
-- Name: COLUMN webhook_endpoints.format; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.format IS 'What notices look like there.';


--
-- Name: COLUMN webhook_endpoints.routing_key; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.routing_key IS 'Of the service at PagerDuty that is told; never shown.';


--
-- Name: COLUMN webhook_endpoints.secret; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.secret IS 'What deliveries are signed with (HMAC needs it whole); shown once.';


--
-- Name: COLUMN webhook_endpoints.old_secret; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.old_secret IS 'The one before a rotation: signs, too, until old_secret_until.';


--
-- Name: COLUMN webhook_endpoints.types; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.types IS 'Which notices it gets; null: all.';


--
-- Name: COLUMN webhook_endpoints.failing_since; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.webhook_endpoints.failing_since IS 'The first failure since a delivery last succeeded.';


--
-- Name: welcomed_mailboxes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.welcomed_mailboxes (
    mailbox bytea NOT NULL,
    user_id text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


--
-- Name: TABLE welcomed_mailboxes; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON TABLE public.welcomed_mailboxes IS 'Who was given welcome credit at which mailbox, by its SHA-256; never deleted, so that it is given once.';


--
-- Name: usage_events_month_0; Type: TABLE ATTACH; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events ATTACH PARTITION public.usage_events_month_0 FOR VALUES FROM ('month-0-01 00:00:00+00') TO ('month-1-01 00:00:00+00');


--
-- Name: usage_events_month_1; Type: TABLE ATTACH; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events ATTACH PARTITION public.usage_events_month_1 FOR VALUES FROM ('month-1-01 00:00:00+00') TO ('month-2-01 00:00:00+00');


--
-- Name: usage_events_month_2; Type: TABLE ATTACH; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events ATTACH PARTITION public.usage_events_month_2 FOR VALUES FROM ('month-2-01 00:00:00+00') TO ('month-3-01 00:00:00+00');


--
-- Name: account_plans account_plans_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.account_plans
    ADD CONSTRAINT account_plans_pkey PRIMARY KEY (account_id);


--
-- Name: accounts accounts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.accounts
    ADD CONSTRAINT accounts_pkey PRIMARY KEY (id);


--
-- Name: api_keys api_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);


--
-- Name: api_keys api_keys_previous_sha256_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_previous_sha256_key UNIQUE (previous_sha256);


--
-- Name: api_keys api_keys_secret_sha256_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_secret_sha256_key UNIQUE (secret_sha256);


--
-- Name: audit_log audit_log_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (id);


--
-- Name: auto_recharges auto_recharges_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.auto_recharges
    ADD CONSTRAINT auto_recharges_pkey PRIMARY KEY (account_id);


--
-- Name: background_jobs background_jobs_later_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.background_jobs
    ADD CONSTRAINT background_jobs_later_id_key UNIQUE (later_id);


--
-- Name: background_jobs background_jobs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.background_jobs
    ADD CONSTRAINT background_jobs_pkey PRIMARY KEY (object_id, provider);


--
-- Name: background_jobs background_jobs_request_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.background_jobs
    ADD CONSTRAINT background_jobs_request_id_key UNIQUE (request_id);


--
-- Name: balance_alerts balance_alerts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.balance_alerts
    ADD CONSTRAINT balance_alerts_pkey PRIMARY KEY (account_id);


--
-- Name: budgets budgets_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.budgets
    ADD CONSTRAINT budgets_pkey PRIMARY KEY (id);


--
-- Name: collect_revisions collect_revisions_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collect_revisions
    ADD CONSTRAINT collect_revisions_name_key UNIQUE (name);


--
-- Name: collect_revisions collect_revisions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collect_revisions
    ADD CONSTRAINT collect_revisions_pkey PRIMARY KEY (id);


--
-- Name: collect_runs collect_runs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collect_runs
    ADD CONSTRAINT collect_runs_pkey PRIMARY KEY (id);


--
-- Name: collect_sources collect_sources_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collect_sources
    ADD CONSTRAINT collect_sources_pkey PRIMARY KEY (source);


--
-- Name: collected_accounts collected_accounts_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_accounts
    ADD CONSTRAINT collected_accounts_pkey PRIMARY KEY (account_id);


--
-- Name: collected_charges collected_charges_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_charges
    ADD CONSTRAINT collected_charges_pkey PRIMARY KEY (account_id, price);


--
-- Name: collected_due collected_due_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_due
    ADD CONSTRAINT collected_due_pkey PRIMARY KEY (account_id, region, hour);


--
-- Name: collected_hours collected_hours_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_hours
    ADD CONSTRAINT collected_hours_pkey PRIMARY KEY (series, hour);


--
-- Name: collected_nodes collected_nodes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_nodes
    ADD CONSTRAINT collected_nodes_pkey PRIMARY KEY (id);


--
-- Name: collected_nodes collected_nodes_source_node_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_nodes
    ADD CONSTRAINT collected_nodes_source_node_key UNIQUE (source, node);


--
-- Name: collected_owners collected_owners_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_owners
    ADD CONSTRAINT collected_owners_pkey PRIMARY KEY (subject, until);


--
-- Name: collected_points collected_points_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_points
    ADD CONSTRAINT collected_points_pkey PRIMARY KEY (series, at);


--
-- Name: collected_series collected_series_node_subject_inbound_tag_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_series
    ADD CONSTRAINT collected_series_node_subject_inbound_tag_key UNIQUE (node, subject, inbound_tag);


--
-- Name: collected_series collected_series_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_series
    ADD CONSTRAINT collected_series_pkey PRIMARY KEY (id);


--
-- Name: collected_subjects collected_subjects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_subjects
    ADD CONSTRAINT collected_subjects_pkey PRIMARY KEY (id);


--
-- Name: collected_subjects collected_subjects_uuid_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_subjects
    ADD CONSTRAINT collected_subjects_uuid_key UNIQUE (uuid);


--
-- Name: corrections corrections_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.corrections
    ADD CONSTRAINT corrections_pkey PRIMARY KEY (account_id, xseq);


--
-- Name: coupon_owners coupon_owners_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupon_owners
    ADD CONSTRAINT coupon_owners_pkey PRIMARY KEY (coupon_id, user_id, account_id);


--
-- Name: coupon_redemptions coupon_redemptions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupon_redemptions
    ADD CONSTRAINT coupon_redemptions_pkey PRIMARY KEY (coupon_id, account_id);


--
-- Name: coupons coupons_code_sha256_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupons
    ADD CONSTRAINT coupons_code_sha256_key UNIQUE (code_sha256);


--
-- Name: coupons coupons_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupons
    ADD CONSTRAINT coupons_pkey PRIMARY KEY (id);


--
-- Name: debits_set_aside debits_set_aside_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.debits_set_aside
    ADD CONSTRAINT debits_set_aside_pkey PRIMARY KEY (request_id);


--
-- Name: export_hours export_hours_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.export_hours
    ADD CONSTRAINT export_hours_pkey PRIMARY KEY (export, account_id, meter, hour);


--
-- Name: export_parked export_parked_export_item_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.export_parked
    ADD CONSTRAINT export_parked_export_item_key UNIQUE (export, item);


--
-- Name: export_parked export_parked_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.export_parked
    ADD CONSTRAINT export_parked_pkey PRIMARY KEY (id);


--
-- Name: export_subjects export_subjects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.export_subjects
    ADD CONSTRAINT export_subjects_pkey PRIMARY KEY (export, account_id);


--
-- Name: exports exports_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.exports
    ADD CONSTRAINT exports_pkey PRIMARY KEY (name);


--
-- Name: feature_events feature_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_events
    ADD CONSTRAINT feature_events_pkey PRIMARY KEY (account_id, event_id);


--
-- Name: feature_units feature_units_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_units
    ADD CONSTRAINT feature_units_pkey PRIMARY KEY (account_id, feature, period_start);


--
-- Name: gateways gateways_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.gateways
    ADD CONSTRAINT gateways_pkey PRIMARY KEY (id);


--
-- Name: group_rules group_rules_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.group_rules
    ADD CONSTRAINT group_rules_pkey PRIMARY KEY (org_id);


--
-- Name: installation installation_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (one);


--
-- Name: invitations invitations_digest_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_digest_key UNIQUE (digest);


--
-- Name: invitations invitations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_pkey PRIMARY KEY (id);


--
-- Name: job_leases job_leases_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.job_leases
    ADD CONSTRAINT job_leases_pkey PRIMARY KEY (name);


--
-- Name: local_events local_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.local_events
    ADD CONSTRAINT local_events_pkey PRIMARY KEY (id);


--
-- Name: local_keys local_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.local_keys
    ADD CONSTRAINT local_keys_pkey PRIMARY KEY (key);


--
-- Name: local_objects local_objects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.local_objects
    ADD CONSTRAINT local_objects_pkey PRIMARY KEY (kind, id);


--
-- Name: local_pages local_pages_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.local_pages
    ADD CONSTRAINT local_pages_pkey PRIMARY KEY (id_sha256);


--
-- Name: lots lots_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lots
    ADD CONSTRAINT lots_pkey PRIMARY KEY (id);


--
-- Name: mail_outbox mail_outbox_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.mail_outbox
    ADD CONSTRAINT mail_outbox_pkey PRIMARY KEY (id);


--
-- Name: member_limits member_limits_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.member_limits
    ADD CONSTRAINT member_limits_pkey PRIMARY KEY (account_id, user_id);


--
-- Name: memberships memberships_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_pkey PRIMARY KEY (org_id, user_id);


--
-- Name: migrations migrations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (number);


--
-- Name: notices notices_account_id_type_once_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.notices
    ADD CONSTRAINT notices_account_id_type_once_key UNIQUE (account_id, type, once);


--
-- Name: notices notices_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.notices
    ADD CONSTRAINT notices_pkey PRIMARY KEY (id);


--
-- Name: one_time_codes one_time_codes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.one_time_codes
    ADD CONSTRAINT one_time_codes_pkey PRIMARY KEY (id);


--
-- Name: operator_links operator_links_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.operator_links
    ADD CONSTRAINT operator_links_pkey PRIMARY KEY (digest);


--
-- Name: order_refunds order_refunds_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.order_refunds
    ADD CONSTRAINT order_refunds_pkey PRIMARY KEY (order_id, key);


--
-- Name: orders orders_account_id_idempotency_key_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_account_id_idempotency_key_key UNIQUE (account_id, idempotency_key);


--
-- Name: orders orders_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);


--
-- Name: organization_domains organization_domains_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organization_domains
    ADD CONSTRAINT organization_domains_pkey PRIMARY KEY (domain);


--
-- Name: organizations organizations_account_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_account_id_key UNIQUE (account_id);


--
-- Name: organizations organizations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_pkey PRIMARY KEY (id);


--
-- Name: organizations organizations_slug_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_slug_key UNIQUE (slug);


--
-- Name: partitions partitions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.partitions
    ADD CONSTRAINT partitions_pkey PRIMARY KEY (p);


--
-- Name: payment_comparisons payment_comparisons_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_comparisons
    ADD CONSTRAINT payment_comparisons_pkey PRIMARY KEY (provider);


--
-- Name: payment_customers payment_customers_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_customers
    ADD CONSTRAINT payment_customers_pkey PRIMARY KEY (account_id, provider);


--
-- Name: payment_differences payment_differences_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_differences
    ADD CONSTRAINT payment_differences_pkey PRIMARY KEY (provider, kind, id);


--
-- Name: payment_events payment_events_number_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_events
    ADD CONSTRAINT payment_events_number_key UNIQUE (number);


--
-- Name: payment_events payment_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_events
    ADD CONSTRAINT payment_events_pkey PRIMARY KEY (provider, id);


--
-- Name: payment_movements payment_movements_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_movements
    ADD CONSTRAINT payment_movements_pkey PRIMARY KEY (provider, kind, id);


--
-- Name: payment_objects payment_objects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_objects
    ADD CONSTRAINT payment_objects_pkey PRIMARY KEY (provider, kind, id);


--
-- Name: payments_parked payments_parked_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payments_parked
    ADD CONSTRAINT payments_parked_pkey PRIMARY KEY (id);


--
-- Name: payments_parked payments_parked_provider_kind_object_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payments_parked
    ADD CONSTRAINT payments_parked_provider_kind_object_id_key UNIQUE (provider, kind, object_id);


--
-- Name: plan_revisions plan_revisions_digest_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.plan_revisions
    ADD CONSTRAINT plan_revisions_digest_key UNIQUE (digest);


--
-- Name: plan_revisions plan_revisions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.plan_revisions
    ADD CONSTRAINT plan_revisions_pkey PRIMARY KEY (revision);


--
-- Name: plans plans_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.plans
    ADD CONSTRAINT plans_pkey PRIMARY KEY (id);


--
-- Name: prices prices_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.prices
    ADD CONSTRAINT prices_pkey PRIMARY KEY (id);


--
-- Name: provider_bill_lines provider_bill_lines_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.provider_bill_lines
    ADD CONSTRAINT provider_bill_lines_pkey PRIMARY KEY (provider, source, day, model, key, line);


--
-- Name: provider_changes provider_changes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.provider_changes
    ADD CONSTRAINT provider_changes_pkey PRIMARY KEY (id);


--
-- Name: provider_comparisons provider_comparisons_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.provider_comparisons
    ADD CONSTRAINT provider_comparisons_pkey PRIMARY KEY (provider);


--
-- Name: provider_failures provider_failures_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.provider_failures
    ADD CONSTRAINT provider_failures_pkey PRIMARY KEY (provider);


--
-- Name: provider_objects provider_objects_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.provider_objects
    ADD CONSTRAINT provider_objects_pkey PRIMARY KEY (object_id, provider);


--
-- Name: recovery_codes recovery_codes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.recovery_codes
    ADD CONSTRAINT recovery_codes_pkey PRIMARY KEY (user_id, digest);


--
-- Name: refresh_tokens refresh_tokens_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_pkey PRIMARY KEY (digest);


--
-- Name: revoked_tokens revoked_tokens_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.revoked_tokens
    ADD CONSTRAINT revoked_tokens_pkey PRIMARY KEY (jti, user_id);


--
-- Name: scim_group_members scim_group_members_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_group_members
    ADD CONSTRAINT scim_group_members_pkey PRIMARY KEY (group_id, member_id);


--
-- Name: scim_groups scim_groups_name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_groups
    ADD CONSTRAINT scim_groups_name UNIQUE (org_id, name);


--
-- Name: scim_groups scim_groups_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_groups
    ADD CONSTRAINT scim_groups_pkey PRIMARY KEY (id);


--
-- Name: scim_tokens scim_tokens_digest_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_tokens
    ADD CONSTRAINT scim_tokens_digest_key UNIQUE (digest);


--
-- Name: scim_tokens scim_tokens_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_tokens
    ADD CONSTRAINT scim_tokens_pkey PRIMARY KEY (id);


--
-- Name: scim_users scim_users_email; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_email UNIQUE (org_id, email);


--
-- Name: scim_users scim_users_name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_name UNIQUE (org_id, user_name);


--
-- Name: scim_users scim_users_person; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_person UNIQUE (org_id, user_id);


--
-- Name: scim_users scim_users_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_pkey PRIMARY KEY (id);


--
-- Name: service_events service_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.service_events
    ADD CONSTRAINT service_events_pkey PRIMARY KEY (account_id, event_id);


--
-- Name: service_holds service_holds_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.service_holds
    ADD CONSTRAINT service_holds_pkey PRIMARY KEY (id);


--
-- Name: sessions sessions_cookie_digest_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_cookie_digest_key UNIQUE (cookie_digest);


--
-- Name: sessions sessions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (id);


--
-- Name: sign_in_tries sign_in_tries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sign_in_tries
    ADD CONSTRAINT sign_in_tries_pkey PRIMARY KEY (subject);


--
-- Name: signing_keys signing_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.signing_keys
    ADD CONSTRAINT signing_keys_pkey PRIMARY KEY (kid);


--
-- Name: spent_payment_keys spent_payment_keys_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.spent_payment_keys
    ADD CONSTRAINT spent_payment_keys_pkey PRIMARY KEY (key);


--
-- Name: subscription_changes subscription_changes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.subscription_changes
    ADD CONSTRAINT subscription_changes_pkey PRIMARY KEY (provider, id, created_at);


--
-- Name: subscriptions subscriptions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.subscriptions
    ADD CONSTRAINT subscriptions_pkey PRIMARY KEY (provider, id);


--
-- Name: traffic traffic_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.traffic
    ADD CONSTRAINT traffic_pkey PRIMARY KEY (granularity, bucket, what, name, detail);


--
-- Name: transfers transfers_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.transfers
    ADD CONSTRAINT transfers_pkey PRIMARY KEY (id);


--
-- Name: troubles troubles_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.troubles
    ADD CONSTRAINT troubles_pkey PRIMARY KEY (about);


--
-- Name: usage_by_account usage_by_account_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_by_account
    ADD CONSTRAINT usage_by_account_pkey PRIMARY KEY (granularity, bucket, account_id);


--
-- Name: usage_by_model usage_by_model_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_by_model
    ADD CONSTRAINT usage_by_model_pkey PRIMARY KEY (granularity, bucket, model, provider);


--
-- Name: usage_by_names usage_by_names_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_by_names
    ADD CONSTRAINT usage_by_names_pkey PRIMARY KEY (account_id, tag, dimension, granularity, bucket, dimension_value, value);


--
-- Name: usage_dimensions usage_dimensions_account_id_key_id_user_id_model_provider_e_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_dimensions
    ADD CONSTRAINT usage_dimensions_account_id_key_id_user_id_model_provider_e_key UNIQUE (account_id, key_id, user_id, model, provider, endpoint, feature);


--
-- Name: usage_dimensions usage_dimensions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_dimensions
    ADD CONSTRAINT usage_dimensions_pkey PRIMARY KEY (id);


--
-- Name: usage_events usage_events_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events
    ADD CONSTRAINT usage_events_pkey PRIMARY KEY (request_id, admitted_at);


--
-- Name: usage_events_month_0 usage_events_month_0_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events_month_0
    ADD CONSTRAINT usage_events_month_0_pkey PRIMARY KEY (request_id, admitted_at);


--
-- Name: usage_events_month_1 usage_events_month_1_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events_month_1
    ADD CONSTRAINT usage_events_month_1_pkey PRIMARY KEY (request_id, admitted_at);


--
-- Name: usage_events_month_2 usage_events_month_2_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_events_month_2
    ADD CONSTRAINT usage_events_month_2_pkey PRIMARY KEY (request_id, admitted_at);


--
-- Name: usage_folds usage_folds_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_folds
    ADD CONSTRAINT usage_folds_pkey PRIMARY KEY (account_id);


--
-- Name: usage_months_dropped usage_months_dropped_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_months_dropped
    ADD CONSTRAINT usage_months_dropped_pkey PRIMARY KEY (month, account_id);


--
-- Name: usage_sums usage_sums_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_sums
    ADD CONSTRAINT usage_sums_pkey PRIMARY KEY (account_id, granularity, tag, bucket, dimensions, value);


--
-- Name: usage_tags usage_tags_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.usage_tags
    ADD CONSTRAINT usage_tags_pkey PRIMARY KEY (id);


--
-- Name: user_identities user_identities_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.user_identities
    ADD CONSTRAINT user_identities_pkey PRIMARY KEY (issuer, subject);


--
-- Name: users users_email_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_email_key UNIQUE (email);


--
-- Name: users users_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);


--
-- Name: webhook_deliveries webhook_deliveries_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id);


--
-- Name: webhook_endpoints webhook_endpoints_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT webhook_endpoints_pkey PRIMARY KEY (id);


--
-- Name: welcomed_mailboxes welcomed_mailboxes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.welcomed_mailboxes
    ADD CONSTRAINT welcomed_mailboxes_pkey PRIMARY KEY (mailbox);


--
-- Name: accounts_begins; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX accounts_begins ON public.accounts USING btree (id text_pattern_ops);


--
-- Name: accounts_named; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX accounts_named ON public.accounts USING btree (lower(name) text_pattern_ops);


--
-- Name: accounts_uncorrected; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX accounts_uncorrected ON public.accounts USING btree (id) WHERE (xseq > pushed_xseq);


--
-- Name: accounts_unpushed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX accounts_unpushed ON public.accounts USING btree (id) WHERE (version > pushed_version);


--
-- Name: api_keys_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX api_keys_account ON public.api_keys USING btree (account_id, created_at);


--
-- Name: api_keys_begins; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX api_keys_begins ON public.api_keys USING btree (id text_pattern_ops);


--
-- Name: api_keys_named; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX api_keys_named ON public.api_keys USING btree (lower(name) text_pattern_ops);


--
-- Name: api_keys_unpushed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX api_keys_unpushed ON public.api_keys USING btree (id) WHERE (version > pushed_version);


--
-- Name: api_keys_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX api_keys_user ON public.api_keys USING btree (account_id, user_id) WHERE (user_id IS NOT NULL);


--
-- Name: audit_log_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_log_account ON public.audit_log USING btree (account_id, id) WHERE (account_id IS NOT NULL);


--
-- Name: audit_log_action; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_log_action ON public.audit_log USING btree (action, id);


--
-- Name: audit_log_actor; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_log_actor ON public.audit_log USING btree (actor, id);


--
-- Name: audit_log_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_log_at ON public.audit_log USING brin (at) WITH (pages_per_range='16');


--
-- Name: audit_log_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX audit_log_user ON public.audit_log USING btree (user_id, id) WHERE (user_id IS NOT NULL);


--
-- Name: auto_recharges_under_way; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX auto_recharges_under_way ON public.auto_recharges USING btree (account_id) WHERE (state = ANY (ARRAY['ready'::text, 'waiting'::text, 'capped'::text, 'charging'::text]));


--
-- Name: background_jobs_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX background_jobs_open ON public.background_jobs USING btree (lease_until) WHERE (done_at IS NULL);


--
-- Name: background_jobs_over; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX background_jobs_over ON public.background_jobs USING btree (done_at) WHERE (done_at IS NOT NULL);


--
-- Name: budgets_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX budgets_account ON public.budgets USING btree (account_id, id);


--
-- Name: budgets_looked_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX budgets_looked_at ON public.budgets USING btree (looked_at, id);


--
-- Name: collected_owners_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_owners_account ON public.collected_owners USING btree (account_id);


--
-- Name: collected_points_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_points_at ON public.collected_points USING brin (at);


--
-- Name: collected_series_subject; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_series_subject ON public.collected_series USING btree (subject);


--
-- Name: collected_subjects_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_subjects_account ON public.collected_subjects USING btree (account_id);


--
-- Name: collected_subjects_email; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_subjects_email ON public.collected_subjects USING btree (lower(email));


--
-- Name: collected_subjects_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX collected_subjects_waiting ON public.collected_subjects USING btree (id) WHERE (account_id IS NULL);


--
-- Name: export_hours_due; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX export_hours_due ON public.export_hours USING btree (export, hour) WHERE ((used > told) AND (NOT parked));


--
-- Name: invitation_mails_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX invitation_mails_at ON public.invitation_mails USING btree (sent_at);


--
-- Name: invitation_mails_by; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX invitation_mails_by ON public.invitation_mails USING btree (sent_by, sent_at);


--
-- Name: invitation_mails_to; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX invitation_mails_to ON public.invitation_mails USING btree (email, sent_at);


--
-- Name: invitations_org; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX invitations_org ON public.invitations USING btree (org_id, created_at);


--
-- Name: local_events_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_events_waiting ON public.local_events USING btree (id) WHERE (delivered_at IS NULL);


--
-- Name: local_objects_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_objects_created ON public.local_objects USING btree (kind, created_at);


--
-- Name: local_objects_customer; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_objects_customer ON public.local_objects USING btree (customer_id, kind);


--
-- Name: local_objects_order; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_objects_order ON public.local_objects USING btree (order_id) WHERE (order_id IS NOT NULL);


--
-- Name: local_objects_parent; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_objects_parent ON public.local_objects USING btree (parent_id) WHERE (parent_id IS NOT NULL);


--
-- Name: local_pages_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX local_pages_expiry ON public.local_pages USING btree (expires_at);


--
-- Name: lots_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lots_account ON public.lots USING btree (account_id, id);


--
-- Name: lots_expiring; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lots_expiring ON public.lots USING btree (expires_at) WHERE ((left_nano > 0) AND (expires_at IS NOT NULL));


--
-- Name: lots_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lots_open ON public.lots USING btree (account_id) WHERE (left_nano > 0);


--
-- Name: lots_transfer; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX lots_transfer ON public.lots USING btree (transfer_id) WHERE (transfer_id IS NOT NULL);


--
-- Name: mail_outbox_done; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX mail_outbox_done ON public.mail_outbox USING btree (created_at) WHERE ((sent_at IS NOT NULL) OR (failed_at IS NOT NULL));


--
-- Name: mail_outbox_parked; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX mail_outbox_parked ON public.mail_outbox USING btree (created_at) WHERE (failed_at IS NOT NULL);


--
-- Name: mail_outbox_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX mail_outbox_waiting ON public.mail_outbox USING btree (next_attempt_at) WHERE ((sent_at IS NULL) AND (failed_at IS NULL));


--
-- Name: memberships_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX memberships_user ON public.memberships USING btree (user_id);


--
-- Name: notices_age; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX notices_age ON public.notices USING btree (created_at);


--
-- Name: notices_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX notices_waiting ON public.notices USING btree (created_at, id) WHERE (handed_out_at IS NULL);


--
-- Name: one_time_codes_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX one_time_codes_expiry ON public.one_time_codes USING btree (expires_at);


--
-- Name: one_time_codes_network; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX one_time_codes_network ON public.one_time_codes USING btree (network, created_at) WHERE (network IS NOT NULL);


--
-- Name: one_time_codes_of; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX one_time_codes_of ON public.one_time_codes USING btree (email, purpose, created_at);


--
-- Name: orders_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_account ON public.orders USING btree (account_id, id);


--
-- Name: orders_checkout; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX orders_checkout ON public.orders USING btree (provider, checkout_id) WHERE (checkout_id IS NOT NULL);


--
-- Name: orders_checkout_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_checkout_id ON public.orders USING btree (checkout_id) WHERE (checkout_id IS NOT NULL);


--
-- Name: orders_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_open ON public.orders USING btree (account_id, id) WHERE (status = ANY (ARRAY['open'::text, 'failed'::text]));


--
-- Name: orders_payment; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX orders_payment ON public.orders USING btree (provider, payment_id) WHERE (payment_id IS NOT NULL);


--
-- Name: orders_payment_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_payment_id ON public.orders USING btree (payment_id) WHERE (payment_id IS NOT NULL);


--
-- Name: orders_recharges; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_recharges ON public.orders USING btree (account_id, created_at) WHERE (kind = 'recharge'::text);


--
-- Name: orders_status; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_status ON public.orders USING btree (status, id);


--
-- Name: orders_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX orders_waiting ON public.orders USING btree (expires_at) WHERE (status = 'open'::text);


--
-- Name: organization_domains_org; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX organization_domains_org ON public.organization_domains USING btree (org_id);


--
-- Name: payment_customers_id; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX payment_customers_id ON public.payment_customers USING btree (provider, customer_id);


--
-- Name: payment_events_claimed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_events_claimed ON public.payment_events USING btree (claimed_by) WHERE ((state = 'waiting'::text) AND (claimed_by IS NOT NULL));


--
-- Name: payment_events_of_object; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_events_of_object ON public.payment_events USING btree (provider, ref_kind, ref_id) WHERE (state = 'waiting'::text);


--
-- Name: payment_events_parked; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_events_parked ON public.payment_events USING btree (received_at) WHERE (state = 'parked'::text);


--
-- Name: payment_events_received; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_events_received ON public.payment_events USING btree (received_at, id);


--
-- Name: payment_events_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_events_waiting ON public.payment_events USING btree (next_attempt_at, received_at) WHERE (state = 'waiting'::text);


--
-- Name: payment_movements_order; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_movements_order ON public.payment_movements USING btree (order_id);


--
-- Name: payment_objects_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_objects_account ON public.payment_objects USING btree (account_id, kind, created_at);


--
-- Name: payment_objects_disputed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_objects_disputed ON public.payment_objects USING btree (id) WHERE ((kind = 'payment'::text) AND ((state -> 'disputes'::text) <> '[]'::jsonb));


--
-- Name: payment_objects_payments; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_objects_payments ON public.payment_objects USING btree (created_at, id) WHERE (kind = 'payment'::text);


--
-- Name: payment_objects_refunded; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payment_objects_refunded ON public.payment_objects USING btree (id) WHERE ((kind = 'payment'::text) AND ((state -> 'refunds'::text) <> '[]'::jsonb));


--
-- Name: payments_parked_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX payments_parked_open ON public.payments_parked USING btree (id) WHERE (state = 'parked'::text);


--
-- Name: provider_changes_at; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX provider_changes_at ON public.provider_changes USING btree (at);


--
-- Name: provider_changes_target; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX provider_changes_target ON public.provider_changes USING btree (provider, target, at);


--
-- Name: provider_objects_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX provider_objects_created ON public.provider_objects USING brin (created_at);


--
-- Name: refresh_tokens_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX refresh_tokens_expiry ON public.refresh_tokens USING btree (expires_at);


--
-- Name: refresh_tokens_session; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX refresh_tokens_session ON public.refresh_tokens USING btree (session_id);


--
-- Name: revoked_tokens_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX revoked_tokens_expiry ON public.revoked_tokens USING btree (expires_at);


--
-- Name: revoked_tokens_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX revoked_tokens_user ON public.revoked_tokens USING btree (user_id);


--
-- Name: scim_group_members_member; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX scim_group_members_member ON public.scim_group_members USING btree (member_id);


--
-- Name: scim_tokens_org; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX scim_tokens_org ON public.scim_tokens USING btree (org_id, id);


--
-- Name: scim_users_external; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX scim_users_external ON public.scim_users USING btree (org_id, external_id) WHERE (external_id IS NOT NULL);


--
-- Name: scim_users_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX scim_users_open ON public.scim_users USING btree (email) WHERE ((user_id IS NULL) AND active);


--
-- Name: scim_users_taken; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX scim_users_taken ON public.scim_users USING btree (user_id) WHERE (user_id IS NOT NULL);


--
-- Name: service_holds_due; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX service_holds_due ON public.service_holds USING btree (expires_at) WHERE (state = 'held'::text);


--
-- Name: service_holds_end; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX service_holds_end ON public.service_holds USING btree (account_id, end_event_id) WHERE (end_event_id IS NOT NULL);


--
-- Name: service_holds_open; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX service_holds_open ON public.service_holds USING btree (partition, id) WHERE (state = 'held'::text);


--
-- Name: sessions_ended; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_ended ON public.sessions USING btree (ended_at) WHERE (ended_at IS NOT NULL);


--
-- Name: sessions_expiry; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_expiry ON public.sessions USING btree (expires_at);


--
-- Name: sessions_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sessions_user ON public.sessions USING btree (user_id, created_at);


--
-- Name: sign_in_tries_age; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX sign_in_tries_age ON public.sign_in_tries USING btree (updated_at);


--
-- Name: subscription_changes_created; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX subscription_changes_created ON public.subscription_changes USING btree (created_at);


--
-- Name: subscriptions_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX subscriptions_account ON public.subscriptions USING btree (account_id, created_at);


--
-- Name: subscriptions_past_due; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX subscriptions_past_due ON public.subscriptions USING btree (past_due_since) WHERE (past_due_since IS NOT NULL);


--
-- Name: transfers_credit; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transfers_credit ON public.transfers USING btree (credit_account, id) WHERE (kind <> 'usage'::text);


--
-- Name: transfers_debit; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transfers_debit ON public.transfers USING btree (debit_account, id);


--
-- Name: transfers_debit_other; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transfers_debit_other ON public.transfers USING btree (debit_account, id) WHERE (kind <> 'usage'::text);


--
-- Name: transfers_idempotency; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX transfers_idempotency ON public.transfers USING btree (idempotency_scope, idempotency_key) WHERE (idempotency_key IS NOT NULL);


--
-- Name: transfers_repriced; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transfers_repriced ON public.transfers USING btree (request_id) WHERE (idempotency_scope = 'reprice'::text);


--
-- Name: transfers_returned; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX transfers_returned ON public.transfers USING btree (created_at) WHERE (kind = ANY (ARRAY['refund'::text, 'adjustment'::text]));


--
-- Name: usage_events_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_account ON ONLY public.usage_events USING btree (account_id, admitted_at);


--
-- Name: usage_events_month_0_account_id_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_0_account_id_admitted_at_idx ON public.usage_events_month_0 USING btree (account_id, admitted_at);


--
-- Name: usage_events_admitted; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_admitted ON ONLY public.usage_events USING btree (admitted_at);


--
-- Name: usage_events_month_0_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_0_admitted_at_idx ON public.usage_events_month_0 USING btree (admitted_at);


--
-- Name: usage_events_apart; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_apart ON ONLY public.usage_events USING btree (admitted_at) WHERE (estimated OR (outcome = 'expired'::text) OR (price_id = ANY (ARRAY[''::text, 'named'::text])));


--
-- Name: usage_events_month_0_admitted_at_idx1; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_0_admitted_at_idx1 ON public.usage_events_month_0 USING btree (admitted_at) WHERE (estimated OR (outcome = 'expired'::text) OR (price_id = ANY (ARRAY[''::text, 'named'::text])));


--
-- Name: usage_events_written; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_written ON ONLY public.usage_events USING brin (created_at) WITH (pages_per_range='32');


--
-- Name: usage_events_month_0_created_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_0_created_at_idx ON public.usage_events_month_0 USING brin (created_at) WITH (pages_per_range='32');


--
-- Name: usage_events_wseq; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_wseq ON ONLY public.usage_events USING btree (wseq) WHERE (wseq IS NOT NULL);


--
-- Name: usage_events_month_0_wseq_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_0_wseq_idx ON public.usage_events_month_0 USING btree (wseq) WHERE (wseq IS NOT NULL);


--
-- Name: usage_events_month_1_account_id_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_1_account_id_admitted_at_idx ON public.usage_events_month_1 USING btree (account_id, admitted_at);


--
-- Name: usage_events_month_1_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_1_admitted_at_idx ON public.usage_events_month_1 USING btree (admitted_at);


--
-- Name: usage_events_month_1_admitted_at_idx1; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_1_admitted_at_idx1 ON public.usage_events_month_1 USING btree (admitted_at) WHERE (estimated OR (outcome = 'expired'::text) OR (price_id = ANY (ARRAY[''::text, 'named'::text])));


--
-- Name: usage_events_month_1_created_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_1_created_at_idx ON public.usage_events_month_1 USING brin (created_at) WITH (pages_per_range='32');


--
-- Name: usage_events_month_1_wseq_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_1_wseq_idx ON public.usage_events_month_1 USING btree (wseq) WHERE (wseq IS NOT NULL);


--
-- Name: usage_events_month_2_account_id_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_2_account_id_admitted_at_idx ON public.usage_events_month_2 USING btree (account_id, admitted_at);


--
-- Name: usage_events_month_2_admitted_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_2_admitted_at_idx ON public.usage_events_month_2 USING btree (admitted_at);


--
-- Name: usage_events_month_2_admitted_at_idx1; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_2_admitted_at_idx1 ON public.usage_events_month_2 USING btree (admitted_at) WHERE (estimated OR (outcome = 'expired'::text) OR (price_id = ANY (ARRAY[''::text, 'named'::text])));


--
-- Name: usage_events_month_2_created_at_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_2_created_at_idx ON public.usage_events_month_2 USING brin (created_at) WITH (pages_per_range='32');


--
-- Name: usage_events_month_2_wseq_idx; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_events_month_2_wseq_idx ON public.usage_events_month_2 USING btree (wseq) WHERE (wseq IS NOT NULL);


--
-- Name: usage_fresh_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX usage_fresh_account ON public.usage_fresh USING btree (account_id);


--
-- Name: usage_tags_names; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX usage_tags_names ON public.usage_tags USING btree (account_id, name) WHERE (value IS NULL);


--
-- Name: usage_tags_values; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX usage_tags_values ON public.usage_tags USING btree (account_id, name, value) WHERE (value IS NOT NULL);


--
-- Name: user_identities_user; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX user_identities_user ON public.user_identities USING btree (user_id);


--
-- Name: users_begins; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_begins ON public.users USING btree (id text_pattern_ops);


--
-- Name: users_mailed; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_mailed ON public.users USING btree (email text_pattern_ops);


--
-- Name: users_named; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX users_named ON public.users USING btree (lower(name) text_pattern_ops);


--
-- Name: webhook_deliveries_endpoint; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_deliveries_endpoint ON public.webhook_deliveries USING btree (endpoint_id, created_at, id);


--
-- Name: webhook_deliveries_notice; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_deliveries_notice ON public.webhook_deliveries USING btree (notice_id);


--
-- Name: webhook_deliveries_waiting; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_deliveries_waiting ON public.webhook_deliveries USING btree (next_attempt_at, id) WHERE ((delivered_at IS NULL) AND (parked_at IS NULL));


--
-- Name: webhook_endpoints_account; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX webhook_endpoints_account ON public.webhook_endpoints USING btree (account_id, created_at);


--
-- Name: usage_events_month_0_account_id_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_account ATTACH PARTITION public.usage_events_month_0_account_id_admitted_at_idx;


--
-- Name: usage_events_month_0_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_admitted ATTACH PARTITION public.usage_events_month_0_admitted_at_idx;


--
-- Name: usage_events_month_0_admitted_at_idx1; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_apart ATTACH PARTITION public.usage_events_month_0_admitted_at_idx1;


--
-- Name: usage_events_month_0_created_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_written ATTACH PARTITION public.usage_events_month_0_created_at_idx;


--
-- Name: usage_events_month_0_pkey; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_pkey ATTACH PARTITION public.usage_events_month_0_pkey;


--
-- Name: usage_events_month_0_wseq_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_wseq ATTACH PARTITION public.usage_events_month_0_wseq_idx;


--
-- Name: usage_events_month_1_account_id_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_account ATTACH PARTITION public.usage_events_month_1_account_id_admitted_at_idx;


--
-- Name: usage_events_month_1_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_admitted ATTACH PARTITION public.usage_events_month_1_admitted_at_idx;


--
-- Name: usage_events_month_1_admitted_at_idx1; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_apart ATTACH PARTITION public.usage_events_month_1_admitted_at_idx1;


--
-- Name: usage_events_month_1_created_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_written ATTACH PARTITION public.usage_events_month_1_created_at_idx;


--
-- Name: usage_events_month_1_pkey; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_pkey ATTACH PARTITION public.usage_events_month_1_pkey;


--
-- Name: usage_events_month_1_wseq_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_wseq ATTACH PARTITION public.usage_events_month_1_wseq_idx;


--
-- Name: usage_events_month_2_account_id_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_account ATTACH PARTITION public.usage_events_month_2_account_id_admitted_at_idx;


--
-- Name: usage_events_month_2_admitted_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_admitted ATTACH PARTITION public.usage_events_month_2_admitted_at_idx;


--
-- Name: usage_events_month_2_admitted_at_idx1; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_apart ATTACH PARTITION public.usage_events_month_2_admitted_at_idx1;


--
-- Name: usage_events_month_2_created_at_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_written ATTACH PARTITION public.usage_events_month_2_created_at_idx;


--
-- Name: usage_events_month_2_pkey; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_pkey ATTACH PARTITION public.usage_events_month_2_pkey;


--
-- Name: usage_events_month_2_wseq_idx; Type: INDEX ATTACH; Schema: public; Owner: -
--

ALTER INDEX public.usage_events_wseq ATTACH PARTITION public.usage_events_month_2_wseq_idx;


--
-- Name: audit_log audit_log_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE ON public.audit_log FOR EACH ROW EXECUTE FUNCTION public.refuse_change();


--
-- Name: audit_log audit_log_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER audit_log_no_truncate BEFORE TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: prices prices_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER prices_append_only BEFORE DELETE OR UPDATE ON public.prices FOR EACH ROW EXECUTE FUNCTION public.refuse_change();


--
-- Name: prices prices_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER prices_no_truncate BEFORE TRUNCATE ON public.prices FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: service_events service_events_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER service_events_append_only BEFORE DELETE OR UPDATE ON public.service_events FOR EACH ROW EXECUTE FUNCTION public.refuse_change();


--
-- Name: service_events service_events_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER service_events_no_truncate BEFORE TRUNCATE ON public.service_events FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: transfers transfers_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER transfers_append_only BEFORE DELETE OR UPDATE ON public.transfers FOR EACH ROW EXECUTE FUNCTION public.refuse_change();


--
-- Name: transfers transfers_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER transfers_no_truncate BEFORE TRUNCATE ON public.transfers FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: usage_events usage_events_append_only; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER usage_events_append_only BEFORE DELETE OR UPDATE ON public.usage_events FOR EACH ROW EXECUTE FUNCTION public.refuse_usage_change();


--
-- Name: usage_events usage_events_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON public.usage_events FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: usage_events_month_0 usage_events_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON public.usage_events_month_0 FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: usage_events_month_1 usage_events_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON public.usage_events_month_1 FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: usage_events_month_2 usage_events_no_truncate; Type: TRIGGER; Schema: public; Owner: -
--

CREATE TRIGGER usage_events_no_truncate BEFORE TRUNCATE ON public.usage_events_month_2 FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();


--
-- Name: account_plans account_plans_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.account_plans
    ADD CONSTRAINT account_plans_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: api_keys api_keys_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: auto_recharges auto_recharges_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.auto_recharges
    ADD CONSTRAINT auto_recharges_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: balance_alerts balance_alerts_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.balance_alerts
    ADD CONSTRAINT balance_alerts_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: budgets budgets_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.budgets
    ADD CONSTRAINT budgets_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: collected_accounts collected_accounts_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_accounts
    ADD CONSTRAINT collected_accounts_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: collected_charges collected_charges_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_charges
    ADD CONSTRAINT collected_charges_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.collected_accounts(account_id);


--
-- Name: collected_due collected_due_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_due
    ADD CONSTRAINT collected_due_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: collected_owners collected_owners_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_owners
    ADD CONSTRAINT collected_owners_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: collected_owners collected_owners_subject_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_owners
    ADD CONSTRAINT collected_owners_subject_fkey FOREIGN KEY (subject) REFERENCES public.collected_subjects(id);


--
-- Name: collected_series collected_series_node_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_series
    ADD CONSTRAINT collected_series_node_fkey FOREIGN KEY (node) REFERENCES public.collected_nodes(id);


--
-- Name: collected_series collected_series_subject_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_series
    ADD CONSTRAINT collected_series_subject_fkey FOREIGN KEY (subject) REFERENCES public.collected_subjects(id);


--
-- Name: collected_subjects collected_subjects_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.collected_subjects
    ADD CONSTRAINT collected_subjects_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: coupon_owners coupon_owners_coupon_id_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupon_owners
    ADD CONSTRAINT coupon_owners_coupon_id_account_id_fkey FOREIGN KEY (coupon_id, account_id) REFERENCES public.coupon_redemptions(coupon_id, account_id);


--
-- Name: coupon_redemptions coupon_redemptions_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupon_redemptions
    ADD CONSTRAINT coupon_redemptions_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: coupon_redemptions coupon_redemptions_coupon_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.coupon_redemptions
    ADD CONSTRAINT coupon_redemptions_coupon_id_fkey FOREIGN KEY (coupon_id) REFERENCES public.coupons(id);


--
-- Name: feature_events feature_events_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_events
    ADD CONSTRAINT feature_events_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: feature_units feature_units_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.feature_units
    ADD CONSTRAINT feature_units_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: group_rules group_rules_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.group_rules
    ADD CONSTRAINT group_rules_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;


--
-- Name: invitations invitations_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.invitations
    ADD CONSTRAINT invitations_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id);


--
-- Name: lots lots_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.lots
    ADD CONSTRAINT lots_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: member_limits member_limits_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.member_limits
    ADD CONSTRAINT member_limits_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: memberships memberships_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id);


--
-- Name: memberships memberships_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: one_time_codes one_time_codes_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.one_time_codes
    ADD CONSTRAINT one_time_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: order_refunds order_refunds_order_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.order_refunds
    ADD CONSTRAINT order_refunds_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);


--
-- Name: orders orders_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: organization_domains organization_domains_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organization_domains
    ADD CONSTRAINT organization_domains_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;


--
-- Name: organizations organizations_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.organizations
    ADD CONSTRAINT organizations_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: payment_customers payment_customers_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_customers
    ADD CONSTRAINT payment_customers_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: payment_movements payment_movements_order_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.payment_movements
    ADD CONSTRAINT payment_movements_order_id_fkey FOREIGN KEY (order_id) REFERENCES public.orders(id);


--
-- Name: recovery_codes recovery_codes_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.recovery_codes
    ADD CONSTRAINT recovery_codes_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: refresh_tokens refresh_tokens_session_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.refresh_tokens
    ADD CONSTRAINT refresh_tokens_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id);


--
-- Name: scim_group_members scim_group_members_group_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_group_members
    ADD CONSTRAINT scim_group_members_group_id_fkey FOREIGN KEY (group_id) REFERENCES public.scim_groups(id) ON DELETE CASCADE;


--
-- Name: scim_group_members scim_group_members_member_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_group_members
    ADD CONSTRAINT scim_group_members_member_id_fkey FOREIGN KEY (member_id) REFERENCES public.scim_users(id) ON DELETE CASCADE;


--
-- Name: scim_groups scim_groups_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_groups
    ADD CONSTRAINT scim_groups_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;


--
-- Name: scim_tokens scim_tokens_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_tokens
    ADD CONSTRAINT scim_tokens_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;


--
-- Name: scim_users scim_users_org_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_org_id_fkey FOREIGN KEY (org_id) REFERENCES public.organizations(id) ON DELETE CASCADE;


--
-- Name: scim_users scim_users_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.scim_users
    ADD CONSTRAINT scim_users_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: sessions sessions_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: subscriptions subscriptions_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.subscriptions
    ADD CONSTRAINT subscriptions_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: user_identities user_identities_user_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.user_identities
    ADD CONSTRAINT user_identities_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users(id);


--
-- Name: webhook_deliveries webhook_deliveries_endpoint_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_endpoint_id_fkey FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id) ON DELETE CASCADE;


--
-- Name: webhook_deliveries webhook_deliveries_notice_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_notice_id_fkey FOREIGN KEY (notice_id) REFERENCES public.notices(id) ON DELETE CASCADE;


--
-- Name: webhook_endpoints webhook_endpoints_account_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT webhook_endpoints_account_id_fkey FOREIGN KEY (account_id) REFERENCES public.accounts(id);


--
-- Name: SEQUENCE usage_written; Type: ACL; Schema: public; Owner: -
--

GRANT SELECT,USAGE ON SEQUENCE public.usage_written TO PUBLIC;


--
-- PostgreSQL database dump complete
--

\unrestrict golden

