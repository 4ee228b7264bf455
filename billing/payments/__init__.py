"""Payments: from "billing required" to paid and back, with any provider behind one port.

objects        what providers have, in neutral objects
port           what is asked of a payment provider, and its errors
orders         what accounts ask to buy, and what waits for an operator
decisions      what an order becomes by the state of its payment
apply          an object's present state, fetched anew and applied once, whoever said that it has changed
purchases      payments applied: credited, taken back, parked
in_force       which plan is in force by the states of subscriptions, and its credit   pure
outlook        what choosing a plan charges, today and at each renewal                 pure
subscriptions  what was seen of them and of invoices becomes an account's plan and credit; changes of them
expiry         Expiry: what is left of credit at its time is taken back; Recovery: plans that were not paid for end
               with their days of grace
events         what providers tell: stored, acknowledged, then looked into
return_urls    where payers may be sent                                                pure
flows          from what is asked for to the page where it is paid
customers      whom the provider knows as our accounts
keys           idempotency keys of calls that are made again: where the provider has kept a failure for one
charges        what customers were charged, listed and summed
desk           what operators do: refunds, and what could not be credited
assembly       all of it put together on one provider
local/         the local provider, with pages of its own
coupons        Coupons: codes that are credit, once for an account
recharges      what accounts ask of auto-recharge; auto_recharge  charges by it, one at a time;
               Alerts: who is told that a balance is low
reconcile      what the provider has, compared once a day with what was applied and with the ledger
stripe/        Stripe as a provider
queries.sql    their statements
"""
