-- What operators have asked to give back of orders, written before the provider is asked.
CREATE TABLE order_refunds (
    order_id text NOT NULL REFERENCES orders,
    key text NOT NULL,
    amount_cents bigint NOT NULL CHECK (amount_cents > 0),
    refund_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, key)
);
COMMENT ON COLUMN order_refunds.refund_id IS 'The refund at the provider; until it is known, its amount is not refunded to another key.';
