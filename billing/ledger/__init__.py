"""The ledger: transfers, usage events, the batch writer, migrations."""
