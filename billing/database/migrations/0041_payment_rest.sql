-- Money may be credited without an order of ours: what its refunds and disputes move has none either.
ALTER TABLE payment_movements ALTER COLUMN order_id DROP NOT NULL;

-- An event whose gateway has died is looked into by another one as soon as that one's lease is over.
ALTER TABLE payment_events ADD COLUMN claimed_by text;
COMMENT ON COLUMN payment_events.claimed_by IS 'The gateway that looks into it now; null: none does, or it does not say.';
CREATE INDEX payment_events_claimed ON payment_events (claimed_by) WHERE state = 'waiting' AND claimed_by IS NOT NULL;

-- Pages that nobody pays at are bounded by account.
CREATE INDEX orders_open ON orders (account_id, id) WHERE status IN ('open', 'failed');
