"""The clocks of both stores, as the doctor compares them."""

from typing import Final, Literal

from billing.database.connection import Database
from billing.errors import StoreError
from billing.holds.redis import RedisClient, RedisError
from billing.holds.redis.layout import AHEAD_S

AGREE_S: Final = 5.0
"""What clocks set by NTP never differ by, and what asking for them takes at most."""
_POSTGRES_TIME: Final = "SELECT extract(epoch FROM clock_timestamp())::float"


async def redis_ahead_s(redis_url: str, database_url: str, timeout_s: float) -> float | None:
    """How many seconds Redis's clock is ahead of Postgres's: of a cluster's masters that which is furthest off. None
    where a store is away."""
    try:
        link = RedisClient(redis_url, timeout_s=timeout_s, connect_timeout_s=timeout_s)
    except RedisError:
        return None
    database = Database(database_url, size=1, timeout_s=timeout_s)
    try:
        ahead = []
        for shard in await link.shards():
            seconds, micros = await shard.master.command("TIME")
            ahead.append(float(seconds + micros / 1_000_000 - await database.value(_POSTGRES_TIME)))
    except StoreError:
        return None
    finally:
        await link.close()
        await database.close()
    return max(ahead, key=abs)


def clock_finding(ahead_s: float) -> tuple[Literal["ok", "warn", "fail"], str, str]:
    """What follows from it: a status, what it is, and how to mend it."""
    said = f"Redis's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} Postgres's"
    if abs(ahead_s) < AGREE_S:
        return "ok", said, ""
    if abs(ahead_s) <= AHEAD_S:
        return "warn", said, "Have both machines set their clocks by NTP: windows follow Redis's."
    return "fail", said, "Set the wrong one right, by NTP: while they differ by more than an hour no epoch opens."
