"""People: who signs in, which organizations they belong to, and what they may do there.

permissions  roles, and what each may do: one table, which the API also serves        pure
callers      Caller: who asks for something, and for which account                    pure
"""
