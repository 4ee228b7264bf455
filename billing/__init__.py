"""Money, prices, quotas, holds, the ledger, accounts and keys. Knows no HTTP proxy and never imports `gateway`.

money  prices  usage  quotas  plans  principals  keys  presented     pure: no clock, no I/O
holds/       admission and settlement: decision, Redis scripts, recovery
ledger/      transfers, usage events, the batch that writes them, grants, verification, migrations
accounts  api_keys  key_rows     who pays and who may spend, in Postgres
refused      the last requests that were refused, in Redis
effects      what is told to Redis and to the gateways after a change
reports  explanations  event_shapes   what was used and what it cost, line by line
api/         the HTTP API under /api; client  its client library; cli/  commands on top of the client
audit  pages  times              small things that the above share
"""
