"""How the cost of holds grows: with accounts, with windows, with debits that wait for Postgres."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from benchmarks import wire
from benchmarks.metering import Metering, open_metering
from benchmarks.seed import Written, account_id, key_id, seed_numbered, written
from benchmarks.stage import Stage
from benchmarks.subjects import Report, Sample, Unsound
from billing.database.migrate import migrate
from billing.principals import Principal

# Measured at each size, after as many that are not.
REQUESTS: Final = 4_000
# Of the accounts, those that are asked for: more than a processor's cache has room for.
SAMPLED: Final = 2_000
FEW_ACCOUNTS: Final = 100
SIX_WINDOWS: Final = 6
# Of the accounts that a size adds, those that the gateway's own loader loads.
LOADED: Final = 2_000
LOAD_AT_ONCE: Final = 16
COPIED_AT_ONCE: Final = 1_000
WEIGHED: Final = 100
# Accounts that are compared with the ledger: of more, it takes longer than all the rest together.
RECONCILED: Final = 20_000


async def accounts(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """From few accounts to many, each with a key and six windows on both, all of them loaded into Redis."""
    samples: list[Sample] = []
    async with _metering(stage, "grow_accounts") as (metering, url):
        known = 0
        for size in sizes:
            report(f"accounts: {size:,}")
            await seed_numbered(url, range(known, size), SIX_WINDOWS)
            before, started = await metering.redis_bytes(), time.perf_counter()
            loaded = range(known, min(size, known + LOADED))
            await _load(metering, loaded)
            took_s = time.perf_counter() - started
            await _copy(metering, known, range(loaded.stop, size))
            after = await metering.redis_bytes()
            chosen = range(0, size, max(1, size // SAMPLED))[:SAMPLED]
            sample = await _spend(metering, chosen)
            sample.update(await _weigh(metering, chosen[:WEIGHED]))
            if size - known >= WEIGHED:  # of fewer, Redis's own buffers are the larger part
                sample["both_bytes"] = (after - before) / (size - known)
            if size <= RECONCILED:
                sample.update(await metering.reconcile())
            samples.append({"size": size, **sample, "loaded_per_s": len(loaded) / took_s})
            known = size
    return samples


async def windows(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """From no window to many, as many on each account as on its key."""
    samples: list[Sample] = []
    async with _metering(stage, "grow_windows") as (metering, url):
        for number, size in enumerate(sizes):
            report(f"windows: {size}")
            numbers = range(number * FEW_ACCOUNTS, (number + 1) * FEW_ACCOUNTS)
            await seed_numbered(url, numbers, size)
            sample = await _spend(metering, numbers)
            samples.append({"size": size, **sample, **await _weigh(metering, numbers)})
    return samples


async def waiting(stage: Stage, sizes: Sequence[int], report: Report) -> list[Sample]:
    """From no debit to many that Redis has settled and Postgres has not; at the end all of them are written."""
    samples: list[Sample] = []
    async with _metering(stage, "grow_waiting") as (metering, url):
        await seed_numbered(url, range(FEW_ACCOUNTS), SIX_WINDOWS)
        principals = await _principals(metering, range(FEW_ACCOUNTS))
        await metering.spend(principals, REQUESTS)
        await metering.drain()
        empty = await metering.redis_bytes()
        for size in sizes:
            report(f"debits waiting: {size:,}")
            if (missing := size - len(metering.engine.outbox)) > 0:
                await metering.spend(principals, missing)
            held = await metering.redis_bytes() - empty
            sample = {"size": size, "waiting_bytes": held / size if size else 0.0}
            samples.append({**sample, **await metering.spend(principals, REQUESTS)})
            if not size:
                await metering.drain()
        report(f"debits waiting: writing {len(metering.engine.outbox):,}")
        samples[-1].update(await metering.drain())
    return samples


@asynccontextmanager
async def _metering(stage: Stage, name: str) -> AsyncIterator[tuple[Metering, str]]:
    """An engine on a new database. At the end the ledger has every request: raises `Unsound` otherwise."""
    url, number = await stage.create_database(name), stage.databases
    stage.databases += 1
    await migrate(url)
    async with open_metering(stage, url, number) as metering:
        yield metering, url
        await metering.drain()
        found, requests = await written(url), metering.spent
        wanted = Written(requests, requests, requests * wire.COST_NANO, 0, 0)
        if found != wanted:
            raise Unsound(f"the ledger holds {found}, what was spent comes to {wanted}")


async def _load(metering: Metering, numbers: range) -> None:
    """Load accounts and keys into Redis by the loader that an admission calls."""
    left = iter(numbers)

    async def work() -> None:
        for number in left:
            await metering.engine.loader.install(metering.partition, account_id(number), key_id(number))

    await asyncio.gather(*(work() for _ in range(LOAD_AT_ONCE)))


async def _copy(metering: Metering, like: int, numbers: range) -> None:
    """Give more accounts the bytes that the loader has given one that has spent nothing: they are alike, and reading a
    million of them from Postgres would take an hour."""
    keyspace, link = metering.engine.keyspace, metering.link
    installed = keyspace.installed(metering.partition.number)
    account = await link.command("GET", keyspace.account(account_id(like)))
    key = await link.command("GET", keyspace.key(account_id(like), key_id(like)))
    epoch = await link.command("HGET", installed, account_id(like))
    for start in range(numbers.start, numbers.stop, COPIED_AT_ONCE):
        some = range(start, min(start + COPIED_AT_ONCE, numbers.stop))
        values: list[bytes] = []
        for number in some:
            owner = account_id(number)
            values += (keyspace.account(owner), account, keyspace.key(owner, key_id(number)), key)
        await link.command("MSET", *values)
        marks = [mark for number in some for mark in (account_id(number), epoch, key_id(number), epoch)]
        await link.command("HSET", installed, *marks)
        await metering.database.execute(
            "UPDATE accounts SET hyd_epoch = $1 WHERE id BETWEEN $2 AND $3",
            int(epoch),
            account_id(some[0]),
            account_id(some[-1]),
        )


async def _principals(metering: Metering, numbers: range) -> list[Principal]:
    return await metering.principals([key_id(number) for number in numbers])


async def _spend(metering: Metering, numbers: range) -> Sample:
    """What a request of these accounts costs once they are warm, with nothing waiting."""
    principals = await _principals(metering, numbers)
    await metering.spend(principals, max(REQUESTS, len(principals)))
    await metering.drain()
    sample = await metering.spend(principals, REQUESTS)
    await metering.drain()
    return sample


async def _weigh(metering: Metering, numbers: range) -> Sample:
    """Bytes of an account's state and of a key's in Redis, their names included."""
    keyspace = metering.engine.keyspace
    of_accounts = [await metering.bytes_of(keyspace.account(account_id(number))) for number in numbers]
    of_keys = [await metering.bytes_of(keyspace.key(account_id(number), key_id(number))) for number in numbers]
    return {"account_bytes": sum(of_accounts) / len(of_accounts), "key_bytes": sum(of_keys) / len(of_keys)}
