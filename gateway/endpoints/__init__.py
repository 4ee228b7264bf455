"""What the gateway answers by itself.

reads           models, the key's own limits, one request's cost, health and metrics
jobs            work that one gateway does for all, by a lease
metrics_access  who may read the metrics, and their own listener
documentation   the page at /docs
"""
