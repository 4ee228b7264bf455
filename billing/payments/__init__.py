"""Payments: from "billing required" to paid and back, with any provider behind one port.

objects    what providers have, in neutral objects
port       what is asked of a payment provider, and its errors
orders     what accounts ask to buy, and what waits for an operator
decisions  what an order becomes by the state of its payment
apply      an object's present state, fetched anew and applied once, whoever said that it has changed
events     what providers tell: stored, acknowledged, then looked into
purchases  payments applied: credited, taken back, parked
reconcile  what the provider has, compared once a day with what was applied and with the ledger
stripe/    Stripe as a provider
sql/       their statements
"""
