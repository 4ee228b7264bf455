"""People: who signs in, which organizations they belong to, and what they may do there.

permissions   roles, and what each may do: one table, which the API also serves       pure
callers       Caller: who asks for something, and for which account                   pure
tokens        JSON Web Tokens: verified by a key and an algorithm that are given       pure
signing_keys  the keys that sign our own tokens, and their rotation
sessions      a sign-in, its access and refresh tokens, and who shows one
"""
