"""Waiting until a stack is quiet: journals swept, debits written, holds ended."""

from contextlib import suppress

from billing.database.connection import DatabaseError
from billing.holds.epochs import NotReady
from billing.holds.redis.connection import RedisError
from billing.holds.redis.layout import Entry
from gateway.runtime.runtime import Runtime
from tests.chaos.harness import Stack, until

QUIET_BOUND_S = 120.0
# A request whose client has left may run on for `disconnect_drain_s`.
DRAINED_S = 6.0


async def _journal(runtime: Runtime) -> dict[str, str]:
    found = {}
    for partition in runtime.engine.partitions.all:
        name = runtime.engine.keyspace.journal(partition.number)
        raw = await runtime.redis_client.command("HGETALL", name)
        for field_, value in zip(raw[::2], raw[1::2], strict=True):
            entry = Entry.unpack(value)
            found[field_.decode()] = f"{chr(entry.state)} of epoch {entry.epoch} by {entry.gateway or '-'}"
    return found


async def wait_until_swept(stack: Stack) -> None:
    """Wait until the journal has none of the entries any more that it has now: requests that run end, debits reach the
    ledger, and holds of gateways that were killed expire."""
    async with stack.runtime() as runtime:
        entries: dict[str, str] | None = None

        async def swept() -> bool:
            nonlocal entries
            try:
                left = await _journal(runtime)
            except (RedisError, DatabaseError, NotReady, TimeoutError):
                return False
            entries = {name: left[name] for name in (left if entries is None else entries) if name in left}
            return not entries

        await until(swept, "what the journal had after a fault is out of it")


async def wait_until_quiet(stack: Stack) -> int:
    """Wait until nothing is left in the journal; the number of entries that stay after `QUIET_BOUND_S`."""
    left = 0
    async with stack.runtime() as runtime:

        async def empty() -> bool:
            nonlocal left
            try:
                left = len(await _journal(runtime))
            except (RedisError, DatabaseError, NotReady, TimeoutError):
                return False
            return left == 0

        with suppress(AssertionError):
            await until(empty, "the journal is empty", QUIET_BOUND_S)
    return left
