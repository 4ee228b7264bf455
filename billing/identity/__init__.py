"""People: who signs in, which organizations they belong to, and what they may do there.

permissions    roles, and what each may do: one table, which the API also serves      pure
callers        Caller: who asks for something, and for which account                  pure
organizations  who owns an account: founded, named, listed
users          User, Users: who signs in, and what state they are in
mail           enqueue: a mail that is sent once its transaction is committed
tokens         JSON Web Tokens: verified by a key and an algorithm that are given      pure
signing_keys   the keys that sign our own tokens, and their rotation
sessions       a sign-in, its access and refresh tokens, and who shows one
"""
