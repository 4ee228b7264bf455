"""The local payment provider: takes no money, needs no network, and keeps its objects in Postgres.

It behaves as a provider elsewhere does: hosted pages, an idempotency key for each call, events that are hints. What is
paid there is decided by a button, or by which test card is saved.

cards     the test cards and what a payment by each comes to
store     its objects, keys, pages and events in Postgres
provider  LocalProvider: the port
bills     subscriptions by the month: invoices, renewals, changes, prorations
html      its pages as HTML                               pure
web       the endpoints under /pay, and what the buttons of its pages do
queries.sql  its statements
"""
