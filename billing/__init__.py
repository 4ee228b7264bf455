"""Money, prices, quotas, holds, the ledger, accounts and keys. Knows no HTTP proxy and never imports `gateway`.

money  usage  quotas  plans     pure   amounts  how money and counts are shown to people
principals   the account, user and key behind a request, with its limits; who calls the API     pure
permissions  roles, scopes, and what each role may do: one table, which the API also serves     pure
pricing      what usage costs: price rows, the table of them, the arithmetic of a charge     pure
accounts/    who pays: accounts, and changes of their balance by people
keys/        who may spend: keys, their secrets and what a request presents
identity/    people and organizations: who calls, and what they may do there
scim/        directories of companies, which keep their people and groups here
holds/       admission and settlement: decision, Redis scripts, recovery
ledger/      transfers, usage events, the batch that writes them, reports, verification
budgets      sums that an account means to stay within, and is told of
payments/    payment providers behind one port; orders and what they credit
provider_bills/  what providers say that they have billed, beside the ledger
notices/     what customers and operators are told of, by mail and by webhooks
exports/     what was used, told to other systems: Lago, Stripe's meters, CloudEvents, files
collect/     traffic that exporters count, pulled and charged
metering/    what other services meter, through the same holds and ledger
traffic/     what gateways refused and how providers answered, by time, over all accounts
owned        whose an object at a provider is, and work that goes on there
database/    the one place that imports asyncpg; migrations
schemas/     what the HTTP API takes and answers, and what a key may say: beneath all that keeps or shows it
web/         the console: pages under /console
api/         the HTTP API under /api; cli/  commands; client  its client library
addresses  refused_requests  where requests come from, and the last that were refused, with notices of quotas that are
                             used up
backlogs     what waits for longer than it should   pending  whether anything waits in Postgres
search         accounts, people, keys, requests, orders by name or id
change_notifier  how a committed change reaches Redis and the gateways early
work         rounds that are made again and again, in every gateway or, by a lease, in one of all
settings     sections of the configuration that parts take
errors       the tree of all exceptions
fair_queue   what accounts or networks share, in turn
mail         mails, stored in the transaction of what they tell
logs         which request a log line is about, and lines as JSON
audit  codings  pages  wal_segment  times  zones     small things that the above share
"""
