"""What is done to whom. Each fault returns once it is over for whoever did it: a frozen process has been woken again.

Signals go to processes that this run has started, found by their process ids.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, Signals

import psutil

from billing.holds.redis.client import RedisClient
from billing.holds.redis.connection import RedisAway, RedisMoved, RedisTimeout
from billing.holds.redis.layout import Keyspace
from tests.chaos.harness import Customer, Stack
from tests.chaos.waiting import until

FROZEN_S = 5.0
CLOCK_BACK_S = 5.0
FULL_S = 3.0
FAILING_S = 10.0
_KEYS = Keyspace()


@dataclass(frozen=True, slots=True)
class Hit:
    """Whom a fault has hit, and when by `time.monotonic`: these customers alone."""

    customers: Sequence[Customer]
    at_s: float


@dataclass(frozen=True, slots=True)
class Fault:
    """`strike` carries it out once; None: it hit everybody. `settle_s` is the least time before the next one."""

    name: str
    strike: Callable[[Stack, random.Random], Awaitable[Hit | None]]
    settle_s: float


def send_signal(pids: Iterable[int], number: Signals) -> None:
    """To those that are still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def some_worker(stack: Stack, chance: random.Random) -> int:
    """A worker that runs."""
    await until(lambda: bool(stack.worker_pids()), "a worker runs")
    return chance.choice(stack.worker_pids())


async def kill_worker(stack: Stack, chance: random.Random) -> None:
    """kill -9 of one worker; the supervisor starts another."""
    send_signal([await some_worker(stack, chance)], SIGKILL)


async def end_worker(stack: Stack, chance: random.Random) -> None:
    """SIGTERM to one worker: it finishes what it serves; the supervisor starts another."""
    send_signal([await some_worker(stack, chance)], SIGTERM)


async def kill_gateway(stack: Stack, chance: random.Random) -> None:
    """kill -9 of the supervisor, which takes its workers along; started again at once."""
    stack.supervisor.kill()
    await stack.supervisor.wait()
    await stack.start_gateway()


async def kill_redis(stack: Stack, chance: random.Random) -> None:
    """kill -9 of Redis: it comes back with what its append-only file has, which may lack the last second."""
    await until(lambda: stack.redis_pid() is not None, "Redis runs")
    pid = stack.redis_pid()
    assert pid is not None
    send_signal([pid], SIGKILL)


async def kill_postgres(stack: Stack, chance: random.Random) -> None:
    """kill -9 of Postgres: of its first process, or of one session's, after which it restarts by itself."""
    await until(stack.postgres_answers, "Postgres answers")
    pid = stack.postgres_pid()
    assert pid is not None
    sessions = [child.pid for child in children(pid)]
    send_signal([chance.choice(sessions) if sessions and chance.random() < 0.3 else pid], SIGKILL)


async def _freeze(pids: list[int]) -> None:
    send_signal(pids, SIGSTOP)
    try:
        await asyncio.sleep(FROZEN_S)
    finally:
        send_signal(pids, SIGCONT)


async def freeze_worker(stack: Stack, chance: random.Random) -> None:
    """One worker stands still for as long as its lease."""
    await _freeze([await some_worker(stack, chance)])


async def freeze_gateway(stack: Stack, chance: random.Random) -> None:
    """Supervisor and workers stand still."""
    await _freeze(stack.gateway_pids())


async def freeze_redis(stack: Stack, chance: random.Random) -> None:
    """Redis stands still: it carries out late what it was sent meanwhile."""
    await until(lambda: stack.redis_pid() is not None, "Redis runs")
    pid = stack.redis_pid()
    assert pid is not None
    await _freeze([pid])


async def freeze_postgres(stack: Stack, chance: random.Random) -> None:
    """Postgres stands still, all its processes."""
    await until(lambda: stack.postgres_pid() is not None, "Postgres runs")
    await _freeze(all_of_postgres(stack))


async def age_redis(stack: Stack, chance: random.Random) -> None:
    """Redis comes back with an older file: what it wrote last is gone, up to half of all since the file was begun."""
    await until(lambda: stack.redis_pid() is not None, "Redis runs")
    pid = stack.redis_pid()
    assert pid is not None
    send_signal([pid], SIGSTOP)
    try:
        for file in (stack.folder / "data" / "redis" / "appendonlydir").glob("*.incr.aof"):
            os.truncate(file, int(file.stat().st_size * (1 - chance.random() / 2)))
    finally:
        send_signal([pid], SIGKILL)


async def fill_redis(stack: Stack, chance: random.Random) -> None:
    """Redis is out of memory for a while and refuses to write."""
    await command_redis(stack, "CONFIG", "SET", "maxmemory", "1")
    try:
        await asyncio.sleep(FULL_S)
    finally:
        await command_redis(stack, "CONFIG", "SET", "maxmemory", "0")


async def empty_redis(stack: Stack, chance: random.Random) -> None:
    """FLUSHALL: the same server, with nothing in it."""
    await command_redis(stack, "FLUSHALL")


async def lose_account(stack: Stack, chance: random.Random) -> None:
    """One account's state is gone from Redis, as an eviction would have it."""
    customer = chance.choice(stack.customers)
    await command_redis(stack, "DEL", _KEYS.account(customer.account_id))


async def turn_clock_back(stack: Stack, chance: random.Random) -> None:
    """The wall clock of every worker is an hour behind for a while."""
    pids = stack.worker_pids()
    send_signal(pids, SIGUSR1)
    await asyncio.sleep(CLOCK_BACK_S)
    send_signal(pids, SIGUSR1)


async def command_redis(stack: Stack, *command: bytes | str) -> None:
    """Have a command carried out, however late this process, all of its clients in one, gets to see the answer."""
    link = RedisClient(stack.endpoints.redis_url)

    async def carried_out() -> bool:
        try:
            await link.command(*command)
        except (RedisAway, RedisTimeout, RedisMoved):  # moved: it loads its file
            return False
        return True

    try:
        await until(carried_out, f"Redis carries out {command[0]!r}")
    finally:
        await link.close()


def all_of_postgres(stack: Stack) -> list[int]:
    """Its first process, and then its sessions and helpers."""
    pid = stack.postgres_pid()
    assert pid is not None
    return [pid, *(child.pid for child in children(pid))]


def children(pid: int) -> list[psutil.Process]:
    """What a process has started, if it is still there."""
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


async def fail_provider(stack: Stack, chance: random.Random) -> None:
    """A third of what the provider is asked fails before its answer begins: refused, 5xx, cut off, silent."""
    upstream = stack.upstream
    before = upstream.failed.total()
    upstream.failing = 1 / 3
    try:
        await asyncio.sleep(FAILING_S)
    finally:
        upstream.failing = 0.0
    stack.notes.append(f"{upstream.failed.total() - before} attempts failed: {dict(upstream.failed)}")


FAILING_PROVIDER = Fault("a provider that fails a third of the time", fail_provider, 1.0)
DEFAULTS_OF_FAILING_PROVIDER = {
    "max_attempts": 6,
    "retries": 2,
    "retry_backoff_ms": 20,
    "retry_wait_s": 1,
    "attempt_timeout_s": 15,
}
KILLS = (
    Fault("kill -9 of a worker", kill_worker, 1.0),
    Fault("kill -9 of the whole gateway", kill_gateway, 2.0),
    Fault("kill -9 of Redis", kill_redis, 2.0),
    Fault("kill -9 of Postgres", kill_postgres, 2.0),
)
OTHERS = (
    Fault("SIGTERM to a worker", end_worker, 1.0),
    Fault("worker frozen for 5 s", freeze_worker, 1.5),
    Fault("whole gateway frozen for 5 s", freeze_gateway, 1.5),
    Fault("Redis frozen for 5 s", freeze_redis, 1.5),
    Fault("Postgres frozen for 5 s", freeze_postgres, 1.5),
    Fault("Redis back with an older file", age_redis, 2.0),
    Fault("Redis out of memory for 3 s", fill_redis, 1.5),
    Fault("FLUSHALL", empty_redis, 2.0),
    Fault("an account's state lost in Redis", lose_account, 1.5),
    Fault("workers' clock back 1 h", turn_clock_back, 1.0),
)
