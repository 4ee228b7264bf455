"""The ledger: transfers, usage events, the batch writer and what it sets aside, the rollups and their roller, plans and
prices as Postgres knows them, migrations."""
