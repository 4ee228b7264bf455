-- What other services meter: the ids of their events, for good, and their holds, which outlast the process that made them.

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
