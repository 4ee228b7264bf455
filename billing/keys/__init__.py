"""API keys: who may spend. What a key may say is in `billing.schemas.keys`.

secrets     how a secret is made, recognised and hashed; which one a request presents (pure)
keys        keys in Postgres: made, listed, changed, rotated and revoked; who is behind a secret
"""
