"""Postgres.

connection   the one place that imports asyncpg: pools, transactions, named queries, and what failures mean
replica      reads of reports from a replica, as long as that is up to date
urls         its URL as Metergate takes it (pure)
migrate      numbered, append-only SQL files of `migrations/`, each applied once
"""
