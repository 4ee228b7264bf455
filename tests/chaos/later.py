"""`metergate migrate` of a release with later migrations: `python -m tests.chaos.later migrate`.

They do what migrations of a filled ledger do: read all usage events to make sums of them, build indexes and
constraints, add columns and change every row.
"""

import sys

from billing.database import migrate
from billing.database.migrate import Migration
from gateway.commands.root import main

_SUMS = """
CREATE TABLE later_days (
    account_id text NOT NULL REFERENCES accounts,
    day timestamptz NOT NULL,
    requests bigint NOT NULL,
    charged_nano numeric NOT NULL
);
INSERT INTO later_days
SELECT account_id, date_trunc('day', admitted_at, 'UTC'), count(*), sum(charged_nano) FROM usage_events GROUP BY 1, 2;
ALTER TABLE later_days ADD PRIMARY KEY (account_id, day);
"""
_MENDED = """
ALTER TABLE usage_events DISABLE TRIGGER usage_events_append_only;
UPDATE usage_events SET later = 'mended';
ALTER TABLE usage_events ENABLE TRIGGER usage_events_append_only;
"""
LATER = (
    Migration(9001, "days", _SUMS),
    Migration(9002, "column", "ALTER TABLE usage_events ADD COLUMN later text"),
    Migration(9003, "mended", _MENDED),
    Migration(9004, "index", "CREATE INDEX later_transfers ON transfers (created_at, id)"),
    Migration(9005, "check", "ALTER TABLE transfers ADD CONSTRAINT later CHECK (amount_nano > 0)"),
    Migration(9006, "moved", "UPDATE later_days SET requests = requests + 1"),
)

if __name__ == "__main__":
    shipped = migrate.migrations()
    migrate.migrations = lambda: [*shipped, *LATER]
    sys.exit(main())
