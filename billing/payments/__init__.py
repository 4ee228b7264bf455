"""Payments: from "billing required" to paid and back, with any provider behind one port.

objects    what providers have, in neutral objects
port       what is asked of a payment provider, and its errors
orders     what accounts ask to buy, and what waits for an operator
decisions  what an order becomes by the state of its payment
apply      an object's present state, fetched anew and applied once, whoever said that it has changed
purchases  payments applied: credited, taken back, parked
coupons    Coupons: codes that are credit, once for an account
expiry     Expiry: what is left of credit at its time is taken back
sql/       their statements
"""
