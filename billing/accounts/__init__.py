"""Accounts: who pays.

accounts       made, read and changed; each change raises the account's version
member_limits  quotas of a user of an account, counted over all of the user's keys in it
lots           each raise of a balance: what is left of it, in which order it is drawn
grants         credit given and taken by people, once for each idempotency key
suspensions    why an account is suspended, when there are several causes
repricing      requests of a period charged by another price, by correcting transfers
"""
