"""Redis: the one place that imports redis (`server`) and hiredis (`connection`).

client       Redis as the engine sees it: one server, or a cluster whose slots are followed
server       one server: a connection for scripts, the client library for what is rare
connection   script calls: one write and one parsed reply a call, any number in flight
session      what was agreed on with one server over one connection, for as long as it stands
slots        who has which slots of a cluster; fitness  whether servers keep what they are told
batcher      one script call for each turn of the event loop
keyspace     the names of keys, and the partition of an account
layout       the packed layout of state, on Python's side; `lua/_state.lua` is the other
"""

from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import Argument, Script
from billing.holds.redis.fitness import NO_EVICTION, refuse_eviction
from billing.holds.redis.server import Server
from billing.holds.redis.session import ServerSession
from billing.holds.redis.slots import Shard
from billing.holds.redis_errors import (
    RedisAway,
    RedisError,
    RedisMoved,
    RedisRefused,
    RedisTimeout,
    RedisUnfit,
)

__all__ = [
    "NO_EVICTION",
    "Argument",
    "RedisAway",
    "RedisClient",
    "RedisError",
    "RedisMoved",
    "RedisRefused",
    "RedisTimeout",
    "RedisUnfit",
    "Script",
    "Server",
    "ServerSession",
    "Shard",
    "refuse_eviction",
]
