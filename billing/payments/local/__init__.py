"""The local payment provider: takes no money, needs no network, and keeps its objects in Postgres.

It behaves as a provider elsewhere does: hosted pages, an idempotency key for each call, events that are hints. What is
paid there is decided by a button, or by which test card is saved.

provider  LocalProvider: the port, with subscriptions by the month: invoices, renewals, changes, prorations
web       the endpoints under /pay: pages, and what their buttons do
queries.sql  its statements
"""
