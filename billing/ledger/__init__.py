"""The ledger: transfers, usage events, the batch writer, the rollups and their roller, migrations."""
