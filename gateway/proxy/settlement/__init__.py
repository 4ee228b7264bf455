"""Settlement: what a request's hold turns into.

settlements    holds end: settled by a usage, priced and on its way to the ledger, or given back
missing_usage  what is charged where an answer came without its usage, or with one that can't be
usage_anomalies  which reports of nothing are believed, and who is told of what can't be placed
"""
