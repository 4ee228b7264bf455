"""Postgres.

connection   the one place that imports asyncpg: pools, transactions, named queries, and what failures mean
urls         its URL as Metergate takes it (pure)
migrate      numbered, append-only SQL files of `migrations/`, each applied once
"""
