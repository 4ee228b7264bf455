"""Migrations killed on a filled ledger: whatever is killed when, the next run goes on, and nothing is lost or doubled.

A ledger is filled as this version writes it, and put back into the schema of an older one (`OLD`). `metergate migrate`
then runs on copies of it. It, or Postgres, is killed while it holds the migrations' lock, up to `KILLS` times a copy;
the last run is left alone. Then the schema must be a new database's, and the ledger must verify to the same sums.
"""

import asyncio
import os
import random
import shutil
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from signal import SIGKILL
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from ulid import ULID

from billing.accounts.accounts import Accounts
from billing.accounts.grants import Grants
from billing.database.connection import Database
from billing.database.migrate import LOCK_KEY, migrate, pending
from billing.ledger.catalogue import sync_prices
from billing.ledger.debits import Debit
from billing.ledger.reports import roll
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from billing.rates import round_up
from billing.usage import Usage
from gateway.embedded.process import read_pid
from gateway.embedded.servers import EmbeddedServers
from tests.billing.support import PLANS, PRICE, PRICES, RecordingEffects
from tests.chaos.places import ROOT, _with_host, make_folder
from tests.chaos.waiting import until

OLD: Final = 54
"""The first schema whose successors read all usage events to make sums of them."""
ACCOUNTS: Final = 40
DEBITS: Final = 20_000
AT_ONCE: Final = 1_000
KILLS: Final = 4
LATEST_KILL_S: Final = 0.15
"""After the lock was taken."""
OF_POSTGRES: Final = 0.25
"""The share of kills that hit Postgres."""
OWN: Final = frozenset({"migrations", "installation"})
HELD: Final = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND (classid::bigint << 32 | objid::bigint) = $1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
TABLES: Final = """SELECT relname, array_agg(attname ORDER BY attnum) AS columns FROM pg_class
    JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition GROUP BY relname"""
SCHEMA: Final = """SELECT said FROM (
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
SUMS: Final = """SELECT (SELECT sum(balance_nano) FROM accounts WHERE id NOT LIKE 'sys:%') AS balances,
    (SELECT count(*) FROM transfers) AS transfers, (SELECT sum(charged_nano) FROM usage_events) AS charged"""


async def migrations(*, times: int, seed: int, keep: bool) -> Counter[str]:
    """Run; how copies ended, and what was killed."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    folder = make_folder(None)
    try:
        async with EmbeddedServers(folder / "data") as servers:
            url = servers.endpoints.database_url
            pid_file = folder / "data" / "postgres" / "postmaster.pid"
            for name in ("filled", "old"):
                await _create(url, name)
            await migrate(_at(url, "filled"))
            await migrate(_at(url, "old"), up_to=OLD)
            await _fill(_at(url, "filled"))
            await _copy(_at(url, "filled"), _at(url, "old"))
            wanted = await _rows(_at(url, "filled"), SUMS)
            schema = await _rows(_at(url, "filled"), SCHEMA)
            found: Counter[str] = Counter()
            for number in range(times):
                name = f"copy_{number}"
                await _create(url, name, template="old")
                killed = await _migrated(_at(url, name), chance, lambda: read_pid(pid_file))
                found.update(killed)
                wrong = await _judge(_at(url, name), wanted, schema)
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
        *(sys.executable, "-m", "gateway", "migrate"),
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


async def _judge(url: str, wanted: Sequence[Any], schema: Sequence[Any]) -> list[str]:
    wrong: list[str] = []
    database = Database(url)
    try:
        if left := await pending(database):
            wrong.append(f"{left} are pending")
        verified = await verify(database)
        wrong += [f"{check.name}: {check.examples}" for check in verified.checks if check.differences]
    finally:
        await database.close()
    if await _rows(url, SUMS) != wanted:
        wrong.append(f"the sums are {await _rows(url, SUMS)}, not {wanted}")
    found = await _rows(url, SCHEMA)
    wrong += [f"the schema: {each}" for each in sorted(set(found) ^ set(schema))[:5]]
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
        user_id=None,
        key_id=f"key_{number % 7}",
        client_request_id=None,
        upstream_request_id=None,
        endpoint="/v1/chat/completions",
        feature="llm",
        model=f"model-{number % 5}",
        provider=PRICE.provider,
        provider_model=PRICE.model,
        input_tokens=usage.input_tokens,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=usage.output_tokens,
        reasoning_tokens=0,
        counts=None,
        cost_nano=cost_nano,
        charged_nano=cost_nano,
        price_id=PRICE.id,
        multiplier=None,
        markup_scaled=0,
        estimated=False,
        status=200,
        stream=False,
        latency_ms=1,
        ttft_ms=None,
        tags='{"team":"blue"}' if number % 3 else None,
        end_user=None,
    )


async def _copy(source_url: str, target_url: str) -> None:
    """Put rows into the tables and columns that the older schema has."""
    source, target = await asyncpg.connect(source_url), await asyncpg.connect(target_url)
    try:
        theirs = {row["relname"]: set(row["columns"]) for row in await source.fetch(TABLES)}
        async with target.transaction():
            await target.execute("SET LOCAL session_replication_role = replica")
            for row in await target.fetch(TABLES):
                name, columns = (
                    row["relname"],
                    [each for each in row["columns"] if each in theirs.get(row["relname"], ())],
                )
                if name in OWN or not columns:
                    continue
                await target.execute(f"DELETE FROM {name}")  # noqa: S608 - of the catalogue
                rows, listed = BytesIO(), ", ".join(columns)
                await source.copy_from_query(f"SELECT {listed} FROM {name}", output=rows)  # noqa: S608 - of the catalogue
                rows.seek(0)
                await target.copy_to_table(name, source=rows, columns=columns)
    finally:
        await source.close()
        await target.close()


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
