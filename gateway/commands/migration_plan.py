"""`metergate migrate --plan`: what each pending migration locks, and for how long, without touching the ledger.

A scratch database gets the ledger's own schema, and each migration is carried out there; what it locked, read and wrote
anew is asked of Postgres itself, not guessed from its text. How long that takes with the ledger's rows is measured with
`--copy`, which carries the rows over, too. Without it the time is an estimate, by the sizes of the ledger's tables and
the rates below.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import msgspec

from billing.cli import Output, Shown, Table
from billing.database.connection import Database, Row
from billing.database.migrate import MIGRATION_TIMEOUT_S, Migration, pending
from gateway.commands.postgres_programs import pour, run
from gateway.commands.scratch import scratch_database

if TYPE_CHECKING:
    from gateway.commands.stores import Stores

# Assumed, not measured: a small server with slow disks does as much. `--copy` measures.
READ_BYTES_PER_S: Final = 50_000_000
WRITTEN_BYTES_PER_S: Final = 10_000_000
# The strongest lock of a migration on a table, and who waits for its end.
WAITS: Final = {
    "AccessExclusiveLock": "reads and writes wait",
    "ExclusiveLock": "writes wait",
    "ShareRowExclusiveLock": "writes wait",
    "ShareLock": "writes wait",
    "RowExclusiveLock": "writes of the rows that it changes wait",
}
STRENGTH: Final = tuple(WAITS)
# By table: partitions and indexes count for theirs. `files`: a table or index that is written anew gets another one.
_STATE: Final = """SELECT coalesce(p.inhparent, t.inhparent, i.indrelid, c.oid)::regclass::text AS name,
        array_agg(c.relfilenode ORDER BY c.oid) FILTER (WHERE c.relkind = 'r') AS files,
        sum(coalesce(pg_stat_get_xact_numscans(c.oid), 0))::bigint AS scans
    FROM pg_class c LEFT JOIN pg_inherits p ON p.inhrelid = c.oid LEFT JOIN pg_index i ON i.indexrelid = c.oid
        LEFT JOIN pg_inherits t ON t.inhrelid = i.indrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I') GROUP BY 1"""
_LOCKS: Final = """SELECT coalesce(p.inhparent, c.oid)::regclass::text AS name, l.mode
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_inherits p ON p.inhrelid = c.oid
    WHERE l.pid = pg_backend_pid() AND l.granted AND c.relkind IN ('r', 'p')
        AND c.relnamespace = 'public'::regnamespace"""
_SIZES: Final = """SELECT coalesce(inhparent, c.oid)::regclass::text AS name,
        sum(pg_table_size(c.oid))::bigint AS bytes, sum(greatest(reltuples, 0))::bigint AS rows
    FROM pg_class c LEFT JOIN pg_inherits ON inhrelid = c.oid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' GROUP BY 1"""


@dataclass(frozen=True, slots=True)
class Locked:
    """A table that others have to wait for. `read`: all of it is; `rewritten`: and written anew, or its index is."""

    table: str
    mode: str
    waits: str
    bytes: int
    rows: int
    read: bool
    rewritten: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One migration, `seconds` from its first lock to its end; `measured` with the ledger's rows, else estimated."""

    name: str
    rolls: bool
    locks: tuple[Locked, ...]
    seconds: float
    measured: bool


async def plan(stores: "Stores", output: Output, *, copy: bool) -> list[Step]:
    """Carry the pending migrations out on a scratch database. Raises what `explained_failures` explains."""
    ledger = Database(stores.database_url, size=1, timeout_s=MIGRATION_TIMEOUT_S)
    try:
        left = await pending(ledger)
        if not left:
            return []
        sizes = {row["name"]: (int(row["bytes"]), int(row["rows"])) for row in await ledger.rows(_SIZES)}
    finally:
        await ledger.close()
    if not sizes:
        return [Step(each.full_name, each.rolls, (), 0.0, measured=True) for each in left]  # a new database
    async with scratch_database(output) as url:
        with TemporaryDirectory(prefix="metergate-scratch-") as folder:
            dump, rows = Path(folder) / "dump", () if copy else ("--schema-only",)
            options = ("--format=custom", "--no-owner", "--no-privileges", f"--file={dump}", *rows, "--verbose")
            with output.step("Copied the ledger" if copy else "Copied the schema"):
                await run("pg_dump", options, stores.database_url, output)
                await pour(dump, url, output, anew=False)
        scratch = Database(url, size=1, timeout_s=MIGRATION_TIMEOUT_S)
        try:
            await scratch.execute("VACUUM ANALYZE")
            return [await _carried_out(scratch, each, sizes, measured=copy) for each in left]
        finally:
            await scratch.close()


async def _carried_out(
    scratch: Database, migration: Migration, sizes: Mapping[str, tuple[int, int]], *, measured: bool
) -> Step:
    async with scratch.transaction() as connection:
        before = {row["name"]: row for row in await connection.fetch(_STATE)}
        began_s = time.monotonic()
        await connection.execute(migration.sql)
        took_s = time.monotonic() - began_s
        held = await connection.fetch(_LOCKS)
        after = {row["name"]: row for row in await connection.fetch(_STATE)}
    locks = tuple(
        Locked(
            name,
            mode,
            WAITS[mode],
            *sizes.get(name, (0, 0)),
            read=after[name]["scans"] > before[name]["scans"] if name in after else False,
            rewritten=name in after and after[name]["files"] != before[name]["files"],
        )
        for name, mode in sorted(_strongest(held).items())
        if name in before
    )
    return Step(migration.full_name, migration.rolls, locks, took_s if measured else _estimate_s(locks), measured)


def _strongest(held: Iterable[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in held:
        name, mode = row["name"], row["mode"]
        if mode in WAITS and (name not in found or STRENGTH.index(mode) < STRENGTH.index(found[name])):
            found[name] = mode
    return found


def _estimate_s(locks: Iterable[Locked]) -> float:
    """What is read is read once; what is written anew, or gets an index or other rows, is written as a whole."""
    seconds = 0.0
    for each in locks:
        writes = each.rewritten or (each.read and each.mode in ("ShareLock", "RowExclusiveLock"))
        seconds += each.bytes / READ_BYTES_PER_S * each.read + each.bytes / WRITTEN_BYTES_PER_S * writes
    return seconds


def shown(steps: list[Step]) -> Shown:
    """Tell it."""
    if not steps:
        return Shown({"migrations": []}, ("The schema is up to date.",))
    rows = []
    for step in steps:
        how = "measured on a copy" if step.measured else "estimated by size"
        seconds = f"{step.seconds:.1f} s, {how}"
        rolls = "yes" if step.rolls else "NO"
        for at, lock in enumerate(step.locks or (None,)):
            told = ("", "nothing that is there") if lock is None else (lock.table, _told(lock))
            rows.append((step.name, rolls, *told, seconds) if at == 0 else ("", "", *told, ""))
    parts: list[str | Table] = [Table(("migration", "rolls", "table", "lock", "for about"), rows)]
    parts.append(_advice(steps))
    return Shown({"migrations": msgspec.to_builtins(steps)}, tuple(parts))


def _told(lock: Locked) -> str:
    does = "written anew, " if lock.rewritten else "read, " if lock.read else ""
    return f"{lock.waits} ({does}{lock.bytes / 1e6:.1f} MB, {lock.rows} rows)"


def _advice(steps: list[Step]) -> str:
    apart = [step.name for step in steps if not step.rolls]
    if apart:
        return (
            f"Stop the gateways of the release before first: {', '.join(apart)} does not roll. "
            "To go back, restore a backup that was made before."
        )
    return (
        "Gateways may run on. Debits wait for a lock in Redis's journal, requests of accounts that are in Redis are "
        "served meanwhile; all others wait, and are refused after admission_wait_ms."
    )
