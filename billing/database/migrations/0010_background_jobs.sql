-- Work that goes on at a provider after it has answered: who polls it, and what it becomes in the ledger. Whether it is paid is
-- decided by usage_events alone: by the row of request_id, or of later_id where that request's hold has expired.
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
    PRIMARY KEY (object_id, provider)
);
CREATE INDEX background_jobs_open ON background_jobs (lease_until) WHERE done_at IS NULL;
COMMENT ON COLUMN background_jobs.model IS 'As the client asked for it.';
COMMENT ON COLUMN background_jobs.gateway_id IS 'Whose hold request_id is.';
COMMENT ON COLUMN background_jobs.released IS 'That gateway has given the hold back, and settles nothing any more.';
COMMENT ON COLUMN background_jobs.debit IS 'The debit that charges the whole hold, as the journal has it.';
