"""Money, prices, quotas, holds, the ledger, accounts and keys. Knows no HTTP proxy and never imports `gateway`.

money  prices  price_table  price_ids  price_trials  price_classes  rates  usage  quotas  plans  principals     pure
shares       pure
accounts/    who pays: accounts, and changes of their balance by people
keys/        who may spend: keys, their secrets and what a request presents
identity/    people and organizations: who calls, and what they may do there
holds/       admission and settlement: decision, Redis scripts, recovery
ledger/      transfers, usage events, the batch that writes them, reports, verification
budgets/     sums that an account means to stay within, and is told of
payments/    payment providers behind one port; orders and what they credit
provider_bills/  what providers say that they have billed, beside the ledger
notices/     what customers and operators are told of, by mail and by webhooks
exports/     what was used, told to other systems: Lago, Stripe's meters, CloudEvents, files
collect/     traffic that exporters count, pulled and charged
metering/    what other services meter, through the same holds and ledger
owned/       whose an object at a provider is
database/    the one place that imports asyncpg; migrations
shapes/      what the HTTP API takes and answers, and what a key may say
web/         the console: pages under /console
api/         the HTTP API under /api; cli/  commands; client  its client library
calls  credit_calls  payment_calls  person_calls     its calls
attempts  addresses  refused_requests     guessed keys, where requests come from, and the last that were refused
effects      what is told to Redis and to the gateways after a change
errors       the tree of all exceptions
fair_queue   what accounts or networks share, in turn
logs         which request a log line is about, and lines as JSON
answers  audit  codings  expectations  pages  wal_segment  times  zones     small things that the above share
"""
