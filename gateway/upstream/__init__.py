"""Upstream: how a request reaches a provider and how its answer comes back.

base         the port, and its exceptions
headers      what passes between client and provider
transport    to real providers: directly, or through the environment's proxies
pool         kept-alive connections; turns  who may use one, and who waits for one
connection   one HTTP/1.1 connection; response  the body of an answer on it
http_proxy   through a proxy, on aiohttp's client session
local/       a provider inside the process
"""
