-- Objects that clients created at a provider (responses, conversations): whose they are. Providers know the operator's key
-- alone, so that nothing but this table keeps one account from another's objects.
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
