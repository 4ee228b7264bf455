"""Upstream: how a request reaches a provider and how its answer comes back.

base         the port, its exceptions, and slots: how many connections are in use, an account's share, the queues
transport    to real providers: kept-alive connections, or the environment's proxies
connection   one HTTP/1.1 connection, and the body of an answer on it
health       which of a provider's targets to try
http_proxy   through a proxy, on aiohttp's client session
socket       over a WebSocket, one for each client's
local/       a provider inside the process
"""
