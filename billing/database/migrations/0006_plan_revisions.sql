-- One file of plans is in force for all gateways: that of the highest revision. So gateways with different files, as while a
-- release rolls out, apply the same quotas, and a person can see which.

CREATE TABLE plan_revisions (
    revision bigint PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    version integer NOT NULL DEFAULT 0 CHECK (version >= 0),
    said jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN plan_revisions.version IS 'What the file says of itself: `version` in plans.yaml, 0 where it says nothing.';
