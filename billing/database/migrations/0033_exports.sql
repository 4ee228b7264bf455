-- Usage on its way to other systems: the order in which events were written, and how far each export has it.

-- Numbers are drawn in a transaction and seen when it is committed, so that a lower one may appear after a higher one. A reader
-- waits for all transactions that may have drawn a number up to some point; it knows them by their ids. So a transaction gets its
-- id before it draws a number. What was written before this migration has none.
CREATE SEQUENCE usage_written;
GRANT USAGE, SELECT ON SEQUENCE usage_written TO PUBLIC;  -- so that whoever may write events still may
ALTER TABLE usage_events ADD COLUMN wseq bigint;
ALTER TABLE usage_events ALTER COLUMN wseq
    SET DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('usage_written') END;
CREATE INDEX usage_events_wseq ON usage_events (wseq) WHERE wseq IS NOT NULL;
COMMENT ON COLUMN usage_events.wseq IS 'Its place among all that were written, for exports; null: written before there were any.';

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
