-- Quotas of a user in an account, counted over all of the user's keys in it. A row without quotas goes.
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
CREATE INDEX api_keys_user ON api_keys (account_id, user_id) WHERE user_id IS NOT NULL;
