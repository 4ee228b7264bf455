"""What is done to the two stores besides killing them: locks, slow commits, a lost journal, a restored backup."""

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import aiohttp
import asyncpg

from billing.holds.redis.layout import Keyspace
from tests.chaos.between import between
from tests.chaos.clients import Ended
from tests.chaos.faults import Fault, Hit, all_of_postgres, command_redis, kill_redis, send_signal
from tests.chaos.harness import Customer, Excuse, Stack
from tests.chaos.places import ADMIN_KEY
from tests.chaos.waiting import until

KEYS = Keyspace()
STORM_S = 5.0
LOCKED_S = 0.25
ROW_LOCKED_S = 5.0
# Of the customers that a round begins with, the first ones.
RICH = 4
BETWEEN_S = 0.1
# For Postgres in a storm: a statement that waits longer for a lock fails, as many operators have it.
LOCK_TIMEOUT = {"lock_timeout": "50ms"}
# For Postgres: each commit takes 10 ms at least, whoever else commits.
SLOW_COMMITS = {"commit_delay": "10000", "commit_siblings": "0"}
AWAY_S = 1.0
SINCE_BACKUP_S = 3.0
# A debit may reach Postgres so much later than its answer ended: after the backup was taken, and it is gone.
FLUSH_LAG_S = 2.0
HOT_SHARE = 60.0
_LOCKS = ("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE", "SELECT 1 FROM accounts FOR UPDATE")


async def hold_locks(stack: Stack, chance: random.Random) -> None:
    """Another session locks the accounts, all rows or the whole table, again and again."""
    connection = await asyncpg.connect(stack.endpoints.database_url)
    try:
        await connection.execute("SET lock_timeout = 0")
        ends_s = time.monotonic() + STORM_S
        while time.monotonic() < ends_s:
            async with connection.transaction():
                await connection.execute(chance.choice(_LOCKS))
                await asyncio.sleep(LOCKED_S)
            await asyncio.sleep(BETWEEN_S)
    finally:
        await connection.close()


async def lock_a_row(stack: Stack, chance: random.Random) -> Hit:
    """Another session has one account's row, Redis is killed, and all other accounts are served before that row is
    free. The four that are served are those with enough credit: they are never refused for anything else."""
    rich = stack.customers[:RICH]
    locked = chance.choice(rich)
    others = [customer for customer in rich if customer is not locked]
    connection = await asyncpg.connect(stack.endpoints.database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM accounts WHERE id = $1 FOR UPDATE", locked.account_id)
            await asyncio.sleep(chance.random())
            await kill_redis(stack, chance)
            at_s, load = time.monotonic(), stack.load
            place = len(load.exchanges)

            def all_served() -> bool:
                ended = [each for each in load.exchanges[place:] if each.ended is Ended.whole and each.sent_s >= at_s]
                return {id(each.customer) for each in ended} >= {id(customer) for customer in others}

            await until(all_served, f"others are served beside a locked row\n{stack.log_tail()}")
            stack.notes.append(f"all others served {time.monotonic() - at_s:.1f} s after Redis was killed")
            await asyncio.sleep(max(0.0, at_s + ROW_LOCKED_S - time.monotonic()))
    finally:
        await connection.close()
    return Hit(others, at_s)


async def lose_journal(stack: Stack, chance: random.Random) -> None:
    """The journal is gone from Redis, with what is held and settled; accounts stay as they are."""
    await command_redis(stack, "DEL", KEYS.journal(0))


async def take_redis_away(stack: Stack, chance: random.Random) -> None:
    """kill -9 of Redis, which comes back after a second."""
    away = _away(stack.folder)
    away.touch()
    try:
        await kill_redis(stack, chance)
        await asyncio.sleep(AWAY_S)
    finally:
        away.unlink()


def redis_held_back(folder: Path) -> AbstractContextManager[None]:
    """For a stack's servers: Redis can be kept away."""
    return between(folder / "between", wait_while=_away(folder))


def _away(folder: Path) -> Path:
    return folder / "redis.away"


async def heat(stack: Stack) -> list[tuple[Customer, float]]:
    """One more customer, with most of the load."""
    return [(await stack.customer("100000"), HOT_SHARE)]


async def restore_postgres(stack: Stack, chance: random.Random) -> None:
    """Redis's epoch is the one that the backup has."""
    await _restore(stack)


async def restore_postgres_of_an_older_epoch(stack: Stack, chance: random.Random) -> None:
    """Redis is emptied after the backup was taken, so that its epoch is one that the backup knows nothing of."""
    await _restore(stack, lambda: command_redis(stack, "FLUSHALL"))


async def _restore(stack: Stack, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
    """Postgres's data is what it was SINCE_BACKUP_S ago, as a snapshot of its disk has it; Redis knows nothing of it.

    What Postgres was told in between is gone with the disk, and no gateway can bring it back: that much is excused.
    Whoever restores then has Redis compared with the ledger, as docs/reliability.md says.
    """
    await until(stack.postgres_answers, "Postgres answers")
    data = stack.postgres_home() / "postgres"
    backup, away = data.with_name("postgres.backup"), data.with_name("postgres.away")
    taken_s = time.monotonic()
    pids = all_of_postgres(stack)
    send_signal(pids, SIGSTOP)  # so that the copy is of one moment
    try:
        await asyncio.to_thread(subprocess.run, ("cp", "-a", str(data), str(backup)), check=True)
    finally:
        send_signal(pids, SIGCONT)
    (backup / "postmaster.pid").unlink()
    if meanwhile is not None:
        await meanwhile()
    await asyncio.sleep(SINCE_BACKUP_S)
    await until(stack.postgres_answers, "Postgres answers")
    pids = all_of_postgres(stack)
    send_signal(pids, SIGSTOP)
    data.rename(away)
    backup.rename(data)
    for each in (*pids[1:], pids[0]):
        send_signal([each], SIGKILL)
    await until(stack.postgres_answers, "the restored Postgres answers")
    stack.excuses.append(Excuse(taken_s - FLUSH_LAG_S, time.monotonic(), taken_s, restored=True))
    await asyncio.to_thread(shutil.rmtree, away)
    await until(lambda: _reconciled(stack), f"Redis is compared with the ledger\n{stack.log_tail()}")


async def _reconciled(stack: Stack) -> bool:
    url, headers = f"{stack.url}/v1/jobs/reconcile", {"X-Admin-Key": ADMIN_KEY}
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with stack.session.post(url, json={"fix": True}, headers=headers) as response:
            return response.status == 200
    return False


STORM = Fault("locks on accounts, lock_timeout 50 ms", hold_locks, 1.5)
LOCKED_ROW = Fault("an account's row locked and Redis restarted", lock_a_row, 3.0)
LOST_JOURNAL = Fault("the journal lost in Redis", lose_journal, 2.0)
HOT = Fault("a hot account, commits of 10 ms, Redis away for 1 s", take_redis_away, 2.0)
RESTORED = (
    Fault("Postgres restored from a backup", restore_postgres, 3.0),
    Fault("Postgres restored from a backup of an older epoch", restore_postgres_of_an_older_epoch, 3.0),
)
