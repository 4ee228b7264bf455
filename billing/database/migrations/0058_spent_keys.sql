-- Idempotency keys for which a payment provider has kept a failure of its own, that it would answer with again: a call
-- that is made again takes the key of the next generation, which is the first one's with this number before it.
CREATE TABLE spent_payment_keys (
    key text PRIMARY KEY,
    generation integer NOT NULL CHECK (generation > 1),
    spent_at timestamptz NOT NULL DEFAULT now()
);
