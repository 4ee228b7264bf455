"""What the HTTP API takes and answers, declared once: the server decodes and encodes these, the client library returns
them, and `/api/openapi.json` is generated from them. Pure.

    base        Body, Query, Answer with `of`, Listing; money, times and names; the error envelope
    decoding    a caller's JSON as a shape
    mismatch    what is wrong with a value, in words instead of msgspec's
    people      registering, signing in, and what people are shown of themselves
    quotas      quotas, and what is left of each
    accounts    accounts, grants, refunds, adjustments
    repricing   requests charged by another price
    admin_users  people as operators see them
    audit       rows of the audit log
    keys        keys: the one declaration of what a key may say, from rows of Postgres to options of commands
    rules       what a rule of a key is
    organizations  organizations, members, invitations, roles
    credit      lots of credit
    budgets     budgets, and how each stands
    usage       balance, transactions, usage events, totals
    reports     what was used, in sums: a summary, buckets of time, the month so far
    margin      margins
    tokens      tokens and sessions of people
    service     what other services send: debits, usage, CloudEvents, holds
    webhooks    endpoints that notices are sent to, and deliveries
    payment_events  what payment providers told, and the comparison with them
    payments    orders, checkouts, means of payment
    subscriptions  billing status, subscriptions, features
    exports     how far exports are, and what is parked
    system      models, refused requests, health, jobs, image

A schema knows how what `billing` has is shown: `Answer.of(row)` takes fields by their names, amounts in USD from
`_nano` and `_cents`, times in RFC 3339; where more is to be said, a classmethod beside it does. Its rows are not typed:
a schema imports no module that imports it. Fields may be added, none renamed or removed.
"""
