-- What operators look for and undo: the audit log by actor, action and time; requests that were priced again; months of
-- usage events that were dropped by age.
CREATE INDEX audit_log_actor ON audit_log (actor, id);
CREATE INDEX audit_log_action ON audit_log (action, id);
CREATE INDEX audit_log_at ON audit_log USING brin (at) WITH (pages_per_range = 16);

CREATE INDEX transfers_repriced ON transfers (request_id) WHERE idempotency_scope = 'reprice';

-- Rollups and transfers stay for good. What the events of a month came to is kept for each account, so that transfers
-- and rollups can still be proved when their events are gone.
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
