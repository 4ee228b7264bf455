-- Events of payment providers: stored as they came before they are acknowledged, then looked into; and what the daily
-- comparison with the provider found.

CREATE TABLE payment_events (
    provider text NOT NULL,
    id text NOT NULL,
    number text NOT NULL UNIQUE,
    type text NOT NULL,
    ref_kind text,
    ref_id text,
    livemode boolean NOT NULL,
    body bytea NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'ignored', 'parked')),
    attempts integer NOT NULL DEFAULT 0,
    error text,
    created_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    PRIMARY KEY (provider, id),
    CHECK ((ref_kind IS NULL) = (ref_id IS NULL))
);
COMMENT ON TABLE payment_events IS
    'Hints of providers: each names an object, which is fetched anew. What it moves is made once by the ids of the money; '
    'a row only says that the hint was looked into.';
COMMENT ON COLUMN payment_events.number IS 'Our own id of it, a ULID: pages follow it.';
COMMENT ON COLUMN payment_events.created_at IS 'When it happened, in whole seconds at some providers: no order follows from it.';
COMMENT ON COLUMN payment_events.state IS 'ignored: of no object, or of another mode; parked: given up after many tries.';
CREATE INDEX payment_events_waiting ON payment_events (next_attempt_at, received_at) WHERE state = 'waiting';
CREATE INDEX payment_events_of_object ON payment_events (provider, ref_kind, ref_id) WHERE state = 'waiting';
CREATE INDEX payment_events_received ON payment_events (received_at, id);
CREATE INDEX payment_events_parked ON payment_events (received_at) WHERE state = 'parked';

CREATE TABLE payment_differences (
    provider text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    account_id text,
    order_id text,
    difference text NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, kind, id)
);
COMMENT ON TABLE payment_differences IS
    'Objects whose state at the provider was not ours when they were last compared, and still is not.';

CREATE TABLE payment_comparisons (
    provider text PRIMARY KEY,
    asked_since timestamptz,
    since timestamptz,
    began_at timestamptz,
    ended_at timestamptz,
    compared integer NOT NULL DEFAULT 0,
    differences integer NOT NULL DEFAULT 0,
    error text
);
COMMENT ON TABLE payment_comparisons IS
    'The last comparison with each provider, and since when an operator has asked for another one.';
