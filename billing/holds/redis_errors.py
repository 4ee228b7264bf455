"""What can go wrong between a gateway and Redis. Messages never hold a secret.

RedisError
+-- RedisAway      no connection, or it broke: a command sent may or may not have been carried out
|   +-- RedisStrange   what answers is no Redis, or does not take the user and password: waiting does not help
+-- RedisTimeout   no answer in time: likewise
+-- RedisRefused   the server answered with an error: nothing was done
    +-- RedisMoved   another server has this key now, or this one can't serve it: ask again elsewhere
    +-- RedisUnfit   it is set up so that it may lose what it was told

NotReady       one of the stores did not let a partition's epoch be agreed on
"""

from billing.errors import StoreError


class RedisError(StoreError):
    """Redis did not do what was asked."""


class RedisAway(RedisError):
    """No connection, or it broke: what was sent may or may not have been carried out."""


class RedisStrange(RedisAway):
    """What answers there is no Redis, or does not take this user and password, or the URL says what none can be."""


class RedisTimeout(RedisError):
    """No answer in time: what was sent may or may not have been carried out."""


class RedisRefused(RedisError):
    """The server answered with an error: nothing was done."""


class RedisUnfit(RedisRefused):
    """The server is set up so that it may lose what it was told: nothing is asked of it."""


class RedisMoved(RedisRefused):
    """Another server has this key now, or this one can't serve it yet: nothing was done."""


class NotReady(StoreError):
    """The partition's epoch could not be agreed on: Redis or Postgres is away."""
