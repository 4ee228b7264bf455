-- Sums by hour, for systems that are told sums: what was used, and what of it has been told.
CREATE TABLE export_hours (
    export text NOT NULL,
    account_id text NOT NULL,
    meter text NOT NULL,
    hour timestamptz NOT NULL,
    used numeric NOT NULL,
    told numeric NOT NULL DEFAULT 0,
    n integer NOT NULL DEFAULT 0,
    asked numeric,
    asked_at timestamptz,
    last numeric,
    parked boolean NOT NULL DEFAULT false,
    PRIMARY KEY (export, account_id, meter, hour),
    CHECK (told + coalesce(asked, 0) <= used)
);
CREATE INDEX export_hours_due ON export_hours (export, hour) WHERE used > told AND NOT parked;
COMMENT ON COLUMN export_hours.n IS 'How many amounts were told before: the last part of the identifier of the next one.';
COMMENT ON COLUMN export_hours.last IS 'The amount that was told last, under identifier n - 1.';
COMMENT ON COLUMN export_hours.asked IS 'The amount that is being told, under identifier n: stored first, so that it is the same when it is sent again.';
