"""What the gateway answers by itself.

routes          the table of them, what answers where nothing is
site            the documentation at /docs, its search, the reference of the API
reads           models, the key's own limits, one request's cost, health and metrics
health          what troubles this gateway, in words
jobs            work that one gateway does for all, by a lease; gauges, and what a worker does beside requests
response_sockets  responses over a WebSocket
metrics_access  access to the metrics, and their own listener
"""
