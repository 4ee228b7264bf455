"""Accounts: who pays.

accounts   made, read, changed and suspended, with the limits of their members; each change raises the account's version
lots       each raise of a balance: what is left of it, in which order it is drawn
grants     credit given and taken by people, once for each idempotency key
repricing  requests of a period charged by another price, by correcting transfers
"""
