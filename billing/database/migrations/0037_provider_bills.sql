-- What providers say that they have billed, as it was last fetched or given, and the last comparison with the ledger.

CREATE TABLE provider_bill_lines (
    provider text NOT NULL,
    source text NOT NULL CHECK (source IN ('api', 'invoice')),
    day date NOT NULL,
    model text NOT NULL,
    key text NOT NULL,
    line text NOT NULL,
    requests bigint,
    input_tokens bigint,
    output_tokens bigint,
    amount_nano bigint,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, source, day, model, key, line)
);
COMMENT ON TABLE provider_bill_lines IS 'Lines of days are replaced whole by those of a later bill from the same source.';
COMMENT ON COLUMN provider_bill_lines.key IS 'The provider''s own id of a key, project or workspace; empty where it names none.';
COMMENT ON COLUMN provider_bill_lines.amount_nano IS 'Null on lines that count and name no amount, as counts are on the others.';

CREATE TABLE provider_comparisons (
    provider text PRIMARY KEY,
    since date NOT NULL,
    until date NOT NULL,
    ours_nano numeric NOT NULL,
    theirs_nano numeric NOT NULL,
    difference_nano numeric NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN provider_comparisons.difference_nano IS 'The sum of the differences of what did not match, each taken as above zero.';
