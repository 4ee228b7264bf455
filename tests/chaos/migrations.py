"""Migrations killed on a filled ledger: whatever is killed when, the next run goes on, and nothing is lost or doubled.

A ledger is filled as this version writes it. `metergate migrate` of a release with later migrations (`later`) then runs
on copies of it. It, or Postgres, is killed while it holds the migrations' lock, up to `KILLS` times a copy; the last
run is left alone. Then schema and rows must be those of a copy that nothing was killed on, and the ledger must verify.
"""

import asyncio
import os
import random
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from signal import SIGKILL
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from ulid import ULID

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.database.migrate import LOCK_KEY, migrate
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import Debit
from billing.ledger.sums import roll
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from billing.pricing import round_up
from billing.usage import Usage
from gateway.embedded.process import read_pid
from gateway.embedded.servers import EmbeddedServers
from tests.billing.support import PLANS, PRICE, PRICES, RecordingEffects
from tests.chaos.places import ROOT, _with_host, make_folder
from tests.chaos.waiting import until

ACCOUNTS = 40
DEBITS = 20_000
AT_ONCE = 1_000
KILLS = 4
# After the lock was taken.
LATEST_KILL_S = 0.15
# The share of kills that hit Postgres.
OF_POSTGRES = 0.25
HELD = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND (classid::bigint << 32 | objid::bigint) = $1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
SCHEMA = """SELECT said FROM (
    SELECT format('%s %s', c.oid::regclass, pg_get_indexdef(i.indexrelid)) AS said
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT format('%s.%s %s %s', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull)
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
        WHERE c.relnamespace = 'public'::regnamespace AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p', 'v')
    UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT tgisinternal
    UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
) AS everything ORDER BY said"""
SUMS = """SELECT (SELECT sum(balance_nano) FROM accounts WHERE id NOT LIKE 'sys:%') AS balances,
    (SELECT count(*) FROM transfers) AS transfers, (SELECT sum(charged_nano) FROM usage_events) AS charged"""
MADE = """SELECT (SELECT count(*) FROM migrations), (SELECT count(*) FROM later_days),
    (SELECT sum(charged_nano) FROM later_days), (SELECT count(*) FROM usage_events WHERE later = 'mended')"""


async def migrations(*, times: int, seed: int, keep: bool) -> Counter[str]:
    """Run; how copies ended, and what was killed."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    folder = make_folder(None)
    try:
        async with EmbeddedServers(folder / "data") as servers:
            url = servers.endpoints.database_url
            pid_file = folder / "data" / "postgres" / "postmaster.pid"
            await _create(url, "filled")
            await migrate(_at(url, "filled"))
            await _fill(_at(url, "filled"))
            await _create(url, "whole", template="filled")
            await (await _start(_at(url, "whole"))).communicate()
            wanted = {query: await _rows(_at(url, "whole"), query) for query in (SUMS, MADE, SCHEMA)}
            assert wanted[SUMS] == await _rows(_at(url, "filled"), SUMS)
            assert wanted[MADE][0][-1] == DEBITS
            found: Counter[str] = Counter()
            for number in range(times):
                name = f"copy_{number}"
                await _create(url, name, template="filled")
                killed = await _migrated(_at(url, name), chance, lambda: read_pid(pid_file))
                found.update(killed)
                wrong = await _judge(_at(url, name), wanted)
                found.update(f"WRONG: {name} (seed {seed}): {each}" for each in wrong)
                found["copies whole in the end"] += not wrong
                await _execute(url, f"DROP DATABASE {name}")
            return found
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


async def _migrated(url: str, chance: random.Random, postgres: Any) -> Counter[str]:
    """Migrate, with kills; the last run has to end well."""
    killed: Counter[str] = Counter()
    for _ in range(chance.randint(1, KILLS)):
        process = await _start(url)
        began = await _has_begun(process, url)
        if not began:
            break
        await asyncio.sleep(chance.uniform(0.0, LATEST_KILL_S))
        if chance.random() < OF_POSTGRES:
            pid = postgres()
            if pid is not None:
                killed["Postgres killed"] += 1
                os.kill(pid, SIGKILL)
        else:
            killed["migrate killed"] += process.returncode is None
            with suppress(ProcessLookupError):
                process.kill()
        await process.communicate()
        await until(lambda: _answers(url), "Postgres answers again")
    process = await _start(url)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return killed


async def _start(url: str) -> asyncio.subprocess.Process:
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.chaos.later",
        "migrate",
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**environment, "PYTHONPATH": str(ROOT), "DATABASE_URL": _with_host(url)},
        cwd=ROOT,
    )


async def _has_begun(process: asyncio.subprocess.Process, url: str) -> bool:
    """Wait until it holds the lock; False where it has ended."""
    connection = await asyncpg.connect(url)
    try:
        begun = False

        async def held_or_over() -> bool:
            nonlocal begun
            begun = bool(await connection.fetchval(HELD, LOCK_KEY))
            return begun or process.returncode is not None

        await until(held_or_over, "migrate takes its lock")
        return begun
    finally:
        await connection.close()


async def _judge(url: str, wanted: Mapping[str, Sequence[Any]]) -> list[str]:
    wrong: list[str] = []
    database = Database(url)
    try:
        verified = await verify(database)
        wrong += [f"{check.name}: {check.examples}" for check in verified.checks if check.differences]
    finally:
        await database.close()
    for query, rows in wanted.items():
        wrong += [f"another row: {each}" for each in sorted(set(await _rows(url, query)) ^ set(rows))[:5]]
    return wrong


async def _fill(url: str) -> None:
    """Accounts with credit that have spent some of it, mostly rolled up already."""
    effects, new_id = RecordingEffects(), lambda: str(ULID())
    database = Database(url)
    try:
        await sync_prices(database, PRICES)
        accounts = [await Accounts(database, PLANS, effects, new_id).create(f"A{n}") for n in range(ACCOUNTS)]
        for account in accounts:
            await Grants(database, effects, new_id).grant(account.id, 10**12, "first")
        for begin in range(0, DEBITS, AT_ONCE):
            ids = [accounts[number % ACCOUNTS].id for number in range(begin, begin + AT_ONCE)]
            await write_debits(database, [_debit(new_id(), each, number) for number, each in enumerate(ids, begin)])
            if begin < DEBITS * 3 // 4:
                await roll(database)
    finally:
        await database.close()


def _debit(request_id: str, account_id: str, number: int) -> Debit:
    at = datetime.now(UTC) - timedelta(minutes=number % 90)
    usage = Usage(input_tokens=10 + number % 13, output_tokens=number % 17)
    cost_nano = round_up(PRICE.cost_scaled(usage))
    return Debit(
        request_id=request_id,
        admitted_at_ms=int(at.timestamp() * 1000),
        outcome="settled",
        account_id=account_id,
        key_id=f"key_{number % 7}",
        endpoint="/v1/chat/completions",
        feature="llm",
        model=f"model-{number % 5}",
        provider=PRICE.provider,
        provider_model=PRICE.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_nano=cost_nano,
        charged_nano=cost_nano,
        price_id=PRICE.id,
        status=200,
        latency_ms=1,
        tags='{"team":"blue"}' if number % 3 else None,
    )


async def _create(url: str, name: str, *, template: str = "template1") -> None:
    give_up = time.monotonic() + 30
    while True:
        try:
            return await _execute(url, f"CREATE DATABASE {name} TEMPLATE {template}")
        except asyncpg.ObjectInUseError:  # a session of the template is about to end
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _rows(url: str, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def _answers(url: str) -> bool:
    try:
        await _execute(url, "SELECT 1")
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


def _at(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
