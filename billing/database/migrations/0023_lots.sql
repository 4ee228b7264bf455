-- Credit in lots: each raise of a balance is one, with what is left of it, and the order in which debits draw on them.

CREATE TABLE lots (
    id text PRIMARY KEY,
    account_id text NOT NULL REFERENCES accounts,
    kind text NOT NULL CHECK (kind IN ('opening', 'purchase', 'grant', 'refund', 'adjustment', 'dispute', 'subscription')),
    transfer_id text,
    amount_nano bigint NOT NULL CHECK (amount_nano BETWEEN 1 AND 9007199254740991),
    left_nano bigint NOT NULL,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 100),
    promotional boolean NOT NULL,
    expires_at timestamptz,
    expired_nano bigint NOT NULL DEFAULT 0 CHECK (expired_nano >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK (left_nano BETWEEN 0 AND amount_nano)
);
CREATE INDEX lots_account ON lots (account_id, id);
CREATE INDEX lots_open ON lots (account_id) WHERE left_nano > 0;
CREATE INDEX lots_expiring ON lots (expires_at) WHERE left_nano > 0 AND expires_at IS NOT NULL;
CREATE INDEX lots_transfer ON lots (transfer_id) WHERE transfer_id IS NOT NULL;
COMMENT ON TABLE lots IS
    'Raises of balances. No debit touches a lot: left_nano is as of the last change of the account''s lots, and lots_now '
    'has what it is now.';
COMMENT ON COLUMN lots.kind IS 'That of the transfer; opening: what was there before lots were kept.';
COMMENT ON COLUMN lots.priority IS 'Lots of a lower number are drawn first.';

-- The lots that were not empty at the last change, with what is left now. Since then the balance has only been debited, so
-- what the lots have above it is what debits have taken; they draw in the order of the window. Below zero is debt, and then
-- nothing is left. Every window is by account, so that a condition on it is applied first.
CREATE VIEW lots_now AS
SELECT ordered.*, left_nano - greatest(0, least(left_nano, drawn_nano - before_nano)) AS left_now
FROM (
    SELECT lots.*,
        sum(left_nano) OVER (PARTITION BY account_id) - greatest(accounts.balance_nano, 0) AS drawn_nano,
        sum(left_nano) OVER (
            PARTITION BY account_id ORDER BY priority, expires_at NULLS LAST, promotional DESC, lots.created_at, lots.id
        ) - left_nano AS before_nano
    FROM lots JOIN accounts ON accounts.id = lots.account_id
    WHERE left_nano > 0
) AS ordered;

INSERT INTO lots (id, account_id, kind, amount_nano, left_nano, priority, promotional, created_at)
SELECT 'lot_' || regexp_replace(id, '^acc_', ''), id, 'opening', balance_nano, balance_nano, 50, false, created_at
FROM accounts WHERE balance_nano > 0;
