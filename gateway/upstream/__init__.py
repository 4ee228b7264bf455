"""Upstream: how a request reaches a provider and how its answer comes back.

base         the port, its exceptions, and slots: how many connections are in use, an account's share, the queues
transport    to real providers: HTTP/1.1 connections, the body of an answer on one, and which are used again;
             directly, or by the environment's proxies
health       which of a provider's targets to try
socket       over a WebSocket, one for each client's
local/       a provider inside the process
"""
