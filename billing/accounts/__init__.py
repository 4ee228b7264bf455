"""Accounts: who pays.

accounts   made, read and changed, with the quotas of their users; each change raises the account's version
grants     credit given and taken by people, once for each idempotency key
"""
