-- What a page has grown by is one row with many subjects, written and deleted each minute, instead of a row for each of them.
CREATE TABLE collected_grown (
    region text NOT NULL,
    minute timestamptz NOT NULL,
    subjects bigint[] NOT NULL,
    bytes numeric[] NOT NULL
);
COMMENT ON TABLE collected_grown IS 'Of subjects that have an account: as collected_growth, a page at once.';
COMMENT ON TABLE collected_growth IS
    'Of subjects that have an account: what late points change, and what was counted before they had one; deleted as it becomes due.';
