"""Payments: from "billing required" to paid and back, with any provider behind one port.

port           what a provider has, in neutral objects, and what is asked of it; where payers may be sent     pure
orders         what accounts ask to buy; PaymentAdmin: refunds, and dead letters, which wait for an operator
               what an order becomes by the state of its payment: credited, taken back, a dead letter; charges
revenue        what came in, failed and went back over time, and what subscriptions bring a month
in_force       which plan is in force by the states of subscriptions, its credit, and what a change charges   pure
subscriptions  their states and invoices become an account's plan and credit; changes of them
events         what providers report: stored, acknowledged, then applied: an object's present state, fetched anew and
               applied once, whoever said that it has changed; whom a provider knows as our accounts; idempotency keys
               of calls that are made again
reconcile      what the provider has, compared once a day with what was applied and with the ledger
flows          from what is asked for to the page where it is paid
auto_recharge  charges of accounts whose balance falls below a threshold, one at a time
balances       Expiry: what is left of credit at its time is taken back; Alerts: who is told that a balance is low
coupons        codes that are credit, once for an account
assembly       all of it put together on one provider
local/         the local provider, with pages of its own; stripe/  Stripe as a provider
queries.sql    their statements
"""
