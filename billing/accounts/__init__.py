"""Accounts: who pays.

accounts   made, read, changed and suspended, with the limits of their members; each change raises the account's version
grants     credit given and taken by people, once for each idempotency key; lots: what each raise of a balance has
           left, in which order it is drawn
repricing  requests of a period charged by another price, by correcting transfers
"""
