-- Budgets: sums that an account means to stay within, and is told of as they are used up. They refuse nothing.

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
CREATE INDEX budgets_account ON budgets (account_id, id);
CREATE INDEX budgets_looked_at ON budgets (looked_at, id);
COMMENT ON COLUMN budgets.about IS 'The id of the key or user, NAME=VALUE of a tag, empty for the whole account.';
COMMENT ON COLUMN budgets.thresholds IS 'Percents of the amount, rising.';
COMMENT ON COLUMN budgets.notify IS 'Members who are mailed, by their addresses; none: owners and admins.';
COMMENT ON COLUMN budgets.told_period IS 'The period in which told is the highest threshold that was told of.';
COMMENT ON COLUMN budgets.looked_at IS 'When it was last compared with what was spent.';
