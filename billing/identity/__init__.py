"""People: who signs in, which organizations they belong to, and what they may do there.

permissions  roles, and what each may do: one table, which the API also serves        pure
callers      Caller: who asks for something, and for which account                    pure
organizations  who owns an account: founded, named, listed
members      who belongs to one, with which role, and what ends with that
invitations  who may become a member, by an address
users        User, Users: who signs in, and what state they are in
mail         enqueue: a mail that is sent once its transaction is committed
"""
