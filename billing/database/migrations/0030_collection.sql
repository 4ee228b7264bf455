-- Traffic that exporters count, collected: what they said (points), what follows from it by minute and hour, whose it is,
-- and what of it has been charged.

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
CREATE INDEX collected_subjects_waiting ON collected_subjects (id) WHERE account_id IS NULL;
CREATE INDEX collected_subjects_account ON collected_subjects (account_id);
CREATE INDEX collected_subjects_email ON collected_subjects (lower(email));
COMMENT ON TABLE collected_subjects IS 'Whom exporters count, by uuid; with the e-mail address that it was first seen with.';

CREATE TABLE collected_series (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node bigint NOT NULL REFERENCES collected_nodes,
    subject bigint NOT NULL REFERENCES collected_subjects,
    inbound_tag text NOT NULL,
    UNIQUE (node, subject, inbound_tag)
);
CREATE INDEX collected_series_subject ON collected_series (subject);
COMMENT ON TABLE collected_series IS 'Two counters each: one of each direction.';

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
CREATE INDEX collected_points_at ON collected_points USING brin (at);
COMMENT ON TABLE collected_points IS
    'What the counters said, and what they grew by since the point before: the facts by minute are sums of these.';

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
    bytes bigint NOT NULL
);
COMMENT ON TABLE collected_growth IS 'Of subjects that have an account: written with points, deleted as it becomes due.';

CREATE TABLE collected_due (
    account_id text NOT NULL REFERENCES accounts,
    region text NOT NULL,
    hour timestamptz NOT NULL,
    at timestamptz NOT NULL,
    bytes bigint NOT NULL,
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
COMMENT ON TABLE collected_charges IS 'All bytes of an account by their price, per byte in nano-USD times billing.rates.COST_SCALE.';

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
