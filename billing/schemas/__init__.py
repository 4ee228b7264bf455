"""What the HTTP API takes and answers, declared once: the server decodes and encodes these, the client library returns
them, and `/api/openapi.json` is generated from them. Pure.

    base        Body, Query, Answer with `of`, Listing; money, times and names; the error envelope
    decoding    a caller's JSON as a shape, and what is wrong with a value, in words instead of msgspec's
    people      registering, signing in, tokens and sessions; people as they see themselves, and as operators do;
                organizations, members, invitations, roles
    directories  rules for groups, tokens of SCIM, domains
    quotas      quotas, and what is left of each
    accounts    accounts, grants, refunds, adjustments; requests charged by another price
    keys        keys: the one declaration of what a key may say, from rows of Postgres to options of commands
    credit      lots of credit, coupons, auto-recharge; budgets, and how each stands
    payments    orders, checkouts, means of payment; subscriptions, features, billing status; events of providers
    usage       balance, transactions, usage events; what was used, in sums
    margin      margins, and bills of providers
    traffic     traffic of all accounts over time, how providers answer, who runs out of credit
    service     what other services send: debits, usage, CloudEvents, holds
    webhooks    endpoints that notices are sent to, and deliveries
    system      models, refused requests, health, jobs, image; the audit log; exports

A schema knows how what `billing` has is shown: `Answer.of(row)` takes fields by their names, amounts in USD from
`_nano` and `_cents`, times in RFC 3339; where more is to be said, a classmethod beside it does. Its rows are not typed:
a schema imports no module that imports it. Fields may be added, none renamed or removed.
"""
