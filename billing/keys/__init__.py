"""API keys: who may spend.

secrets     how a secret is made, recognised and hashed (pure)
rows        what a key may say (pure); presented  which key a request shows (pure)
keys        keys in Postgres: made, listed, changed, revoked, and read as principals
"""
