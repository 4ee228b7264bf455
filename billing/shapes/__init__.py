"""What the HTTP API takes and answers, declared once: the server decodes and encodes these, the client library returns
them, and `/api/openapi.json` is generated from them. Pure.

    base        Body, Query, Answer, Listing; money, times and names; the error envelope
    quotas      quotas, and what is left of each
    accounts    accounts, grants
    keys        keys: the one declaration of what a key may say, from rows of Postgres to options of commands
    rules       what a rule of a key is
    usage       balance, transactions, usage events, totals
    reports     what was used, in sums: a summary, buckets of time, the month so far
    operation   models, refused requests, health, jobs, image

Each answer's shape has a function beside it that makes it of what `billing` has. Fields may be added, none renamed or
removed.
"""
