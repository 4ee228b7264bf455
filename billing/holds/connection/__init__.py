"""Redis: the one place that imports redis (`server`) and hiredis (`wire`).

wire      script calls over one connection: one write and one parsed reply a call, any number in flight
server    one server: a wire for scripts, the client library for what is rare
life      one server's life as one connection sees it: what was agreed on with it holds while it stands
slots     who has which slots of a cluster
link      Redis as the engine sees it: one server, or a cluster whose slots are followed
fitness   whether servers are set up so that they keep what they are told
"""

from billing.holds.connection.fitness import NO_EVICTION, refuse_eviction
from billing.holds.connection.life import Life
from billing.holds.connection.link import Link
from billing.holds.connection.server import Server
from billing.holds.connection.slots import Shard
from billing.holds.connection.wire import Argument, Script
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
    "Life",
    "Link",
    "RedisAway",
    "RedisError",
    "RedisMoved",
    "RedisRefused",
    "RedisTimeout",
    "RedisUnfit",
    "Script",
    "Server",
    "Shard",
    "refuse_eviction",
]
