"""What a backup and a recovery take, and what they lose, on a ledger of `crowd`: `... recovery`.

The commands are those that an operator types, each as a process, from its start to its end. Losses are measured as they
happen: debits are written at a rate, and at some moment nothing is left but the archive as it is then. What the
recovered ledger lacks is what was lost. Each step removes what the next one does not need: at most two ledgers stand
beside each other.
"""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from msgspec.structs import replace

from benchmarks.commands import METERGATE
from benchmarks.crowd import ACCOUNTS, MARKUP_SCALED, PRICE, STATEMENT_S, fill
from benchmarks.metering import debit
from benchmarks.subjects import Report, Unsound
from benchmarks.tables import table
from billing.database.connection import Database
from billing.database.migrate import migrate
from billing.ledger.debits import Debit
from billing.ledger.writer import write_debits
from gateway.embedded.process import postgres_bin
from gateway.embedded.servers import EmbeddedServers

BATCH_ROWS: Final = 500
# Debits a second and for how long: as many as one connection writes, and few, which fill no segment.
FAST: Final = (1_000_000, 60.0)
SLOW: Final = (10, 150.0)
SLOW_EVENTS: Final = 20_000
ARCHIVE_TIMEOUT_S: Final = 60
REPLICATION: Final = "local replication metergate peer map=metergate\n"
_FILLING: Final = {"fsync": "off", "max_wal_size": "8GB", "wal_level": "minimal", "max_wal_senders": "0"}
_BYTES: Final = "SELECT pg_database_size(current_database())"
_EVENTS: Final = "SELECT count(*) FROM usage_events"
_NEWEST: Final = "SELECT extract(epoch FROM max(created_at))::float8 FROM usage_events"
_KEYS: Final = "SELECT account_id, id FROM api_keys WHERE account_id IN (SELECT id FROM accounts ORDER BY id LIMIT 200)"
_EPOCH: Final = 1


@dataclass(slots=True)
class Measured:
    """Rows of the table: what, how long, how much."""

    report: Report
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, what: str, seconds: float | None, more: str = "") -> None:
        """Note a row, and tell of it."""
        took = "" if seconds is None else f"{seconds:,.1f} s"
        self.rows.append((what, took, more))
        self.report(f"{what}: {took} {more}")


async def recovery(folder: Path, events: int, report: Report, accounts: int = ACCOUNTS) -> str:
    """Measure everything below `folder`; return a table. Raises `Unsound`, and `EmbeddedServersError`."""
    _open_to_pass(folder, 0o711)
    measured, first = Measured(report), folder / "first"
    await _ledger(first, events, accounts, measured)
    backup = folder / "ledger.backup"
    measured.add("metergate backup", _metergate(first, "backup", str(backup)), _size(backup.stat().st_size))
    await _lost(folder, first, FAST, measured)
    shutil.rmtree(folder / "second")
    third = folder / "third"
    async with EmbeddedServers(third) as servers:
        await migrate(servers.endpoints.database_url)
    measured.add("metergate restore --force", _metergate(third, "restore", str(backup), "--force"))
    measured.add("metergate ledger verify", _metergate(third, "ledger", "verify"), "every check holds")
    shutil.rmtree(third)
    small = folder / "small"
    await _ledger(small, SLOW_EVENTS, 1000, measured)
    await _lost(folder, small, SLOW, measured)
    return "\n".join(table(("step", "time", "result"), measured.rows))


async def _ledger(data: Path, events: int, accounts: int, measured: Measured) -> None:
    began = time.monotonic()
    async with EmbeddedServers(data, postgres_options=_FILLING) as servers:
        url = servers.endpoints.database_url
        await migrate(url)
        await fill(url, events, measured.report, accounts, whole=True)
        database = Database(url, size=1, timeout_s=STATEMENT_S)
        await database.execute("UPDATE accounts SET hyd_epoch = $1", _EPOCH)
        size = await database.value(_BYTES)
        await database.close()
    measured.add(f"a ledger of {events:,} events", time.monotonic() - began, _size(size))


async def _lost(folder: Path, data: Path, load: tuple[int, float], measured: Measured) -> None:
    """Write debits until the disk is lost, recover from base backup and archive, and count what is missing. `data` is
    gone afterwards; the recovered ledger is in `second`."""
    archive, base = folder / "archive", folder / "base"
    archive.mkdir()
    _open_to_pass(archive, 0o777)
    archiving = {
        "archive_mode": "on",
        "archive_command": f"test ! -f {archive}/%f && cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f",
        "archive_timeout": str(ARCHIVE_TIMEOUT_S),
        "checkpoint_timeout": "30min",
        "max_wal_size": "8GB",
    }
    async with EmbeddedServers(data, postgres_options=archiving) as servers:
        url = servers.endpoints.database_url
        began = time.monotonic()
        await _base_backup(url, data, base)
        measured.add("pg_basebackup", time.monotonic() - began, _size(_below(base)))
        had, written, last, per_s = await _write(url, *load)
        kept = [each.name for each in archive.iterdir() if not each.name.endswith(".part")]
    segments = [name for name in kept if len(name) == 24]
    for each in archive.iterdir():
        if each.name not in kept:
            each.unlink()
    owner = (data / "postgres").stat()
    shutil.rmtree(data)
    measured.add(f"{written:,} debits, {per_s:,.0f} a second", None, f"{len(segments)} segments archived")
    began = time.monotonic()
    recovered = folder / "second" / "postgres"
    recovered.parent.mkdir(mode=0o711)
    shutil.copytree(base, recovered)
    measured.add("copied back", time.monotonic() - began)
    shutil.rmtree(base)
    (recovered / "recovery.signal").touch()
    for each in (recovered, *recovered.rglob("*")):
        os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)
    replaying = {"restore_command": f"cp {archive}/%f %p", "recovery_target_action": "promote"}
    replayed = time.monotonic()
    async with EmbeddedServers(folder / "second", postgres_options=replaying) as servers:
        database = Database(servers.endpoints.database_url, size=1, timeout_s=STATEMENT_S)
        while await database.value("SELECT pg_is_in_recovery()"):
            await asyncio.sleep(0.1)
        measured.add(
            "replayed and promoted", time.monotonic() - replayed, f"away for {time.monotonic() - began:,.1f} s"
        )
        missing = had + written - await database.value(_EVENTS)
        since = last - await database.value(_NEWEST)
        await database.close()
    measured.add("lost", None, f"{missing:,} debits, {since:,.1f} s of them")
    shutil.rmtree(archive)


async def _write(url: str, per_s: int, seconds: float) -> tuple[int, int, float, float]:
    """Return how many events there were, how many came, when the last one did by Postgres's clock, and how many a
    second came."""
    database = Database(url, size=1, timeout_s=STATEMENT_S)
    had = await database.value(_EVENTS)
    keys = [(str(row["account_id"]), str(row["id"])) for row in await database.rows(_KEYS)]
    batch = min(BATCH_ROWS, max(1, per_s // 10))
    began, written = time.monotonic(), 0
    while (now_s := time.monotonic() - began) < seconds:
        if written > now_s * per_s:
            await asyncio.sleep(0.01)
            continue
        made = [_debit(*keys[number % len(keys)], number) for number in range(written, written + batch)]
        await write_debits(database, made)
        written += batch
    took = time.monotonic() - began
    last = await database.value(_NEWEST)
    await database.close()
    return had, written, last, written / took


def _debit(account_id: str, key_id: str, number: int) -> Debit:
    made = debit(account_id, key_id, time.time_ns() // 1_000_000, place=(_EPOCH, number + 1))
    cost = made.input_tokens * 40 + made.output_tokens * 200
    return replace(made, price_id=PRICE.id, markup_scaled=MARKUP_SCALED, cost_nano=cost, charged_nano=cost * 6 // 5)


async def _base_backup(url: str, data: Path, into: Path) -> None:
    with (data / "postgres" / "pg_hba.conf").open("a") as file:
        file.write(REPLICATION)
    database = Database(url, size=1)
    await database.execute("SELECT pg_reload_conf()")
    await database.close()
    parts = urlsplit(url)
    host = ("--host", parse_qs(parts.query)["host"][0], "--username", str(parts.username))
    await asyncio.to_thread(
        _run, (str(postgres_bin(None) / "pg_basebackup"), "--pgdata", str(into), "--checkpoint=fast", *host), os.environ
    )


def _metergate(data: Path, *arguments: str) -> float:
    """Run a command on the servers of a folder; return how long it took."""
    left_out = ("DATABASE_URL", "REDIS_URL")
    env = {name: text for name, text in os.environ.items() if name not in left_out}
    began = time.monotonic()
    _run((str(METERGATE), *arguments), {**env, "METERGATE_DATA_DIR": str(data)})
    return time.monotonic() - began


def _run(command: Sequence[str], env: Mapping[str, str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=dict(env), check=False)
    if done.returncode:
        raise Unsound(f"{command[0]} ended with {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")


def _open_to_pass(folder: Path, mode: int) -> None:
    """For the user that Postgres runs as."""
    folder.chmod(mode)


def _below(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
