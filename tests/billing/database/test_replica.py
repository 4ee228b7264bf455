"""Reports from a replica: a real one, made by pg_basebackup, that falls behind, ends, and is no replica any more."""

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from billing.database.connection import Database, DatabaseUnavailable
from billing.database.migrate import migrate
from billing.database.replica import ReplicatedReads
from billing.ledger.reports import Reports
from gateway.embedded.folders import server_account
from gateway.embedded.process import postgres_bin
from tests.support.ports import free_port

pytestmark = pytest.mark.slow

WAIT_S = 60.0
OPTIONS = ("fsync=off", "max_wal_size=128MB", "shared_buffers=16MB", "unix_socket_directories=", "wal_level=replica")


class Server:
    """A Postgres of this test's own, on a port of 127.0.0.1."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.port = folder, port
        self.account = server_account(print)  # as root, Postgres runs as its own user
        self.bin = postgres_bin(self.account)
        self.process = None

    @property
    def url(self):
        return f"postgresql://metergate@127.0.0.1:{self.port}/postgres"

    def as_account(self):
        return {} if self.account is None else {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}

    def run(self, program, *arguments):
        command = [str(self.bin / program), *arguments]
        subprocess.run(
            command, check=True, capture_output=True, timeout=WAIT_S, cwd=self.folder.parent, **self.as_account()
        )

    def start(self):
        command = [str(self.bin / "postgres"), "-D", str(self.folder), "-p", str(self.port), "-h", "127.0.0.1"]
        for option in OPTIONS:
            command += ["-c", option]
        with (self.folder.parent / f"{self.port}.log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, cwd=self.folder.parent, **self.as_account())

    def stop(self):
        if self.process is not None:
            self.process.send_signal(2)
            self.process.wait(WAIT_S)
            self.process = None


@contextmanager
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="metergate-replica-"))
    account = server_account(print)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def reachable(url, **options):
    database = Database(url, **options)
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            await database.value("SELECT 1")
        except DatabaseUnavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        else:
            return database


@pytest.fixture(scope="module")
def servers():
    with home() as folder:
        primary = Server(folder / "primary", free_port())
        primary.run("initdb", "-D", str(primary.folder), "-U", "metergate", "--auth=trust", "--no-sync")
        primary.start()
        try:
            asyncio.run(_migrate(primary.url))
            replica = Server(folder / "replica", free_port())
            source = f"host=127.0.0.1 port={primary.port} user=metergate"
            replica.run("pg_basebackup", "-D", str(replica.folder), "-d", source, "-R", "-X", "stream", "-c", "fast")
            replica.start()
            try:
                yield primary, replica
            finally:
                replica.stop()
        finally:
            primary.stop()


async def _migrate(url):
    database = await reachable(url)
    await database.close()
    await migrate(url)


class Clock:
    now_s = 1_000.0

    def __call__(self):
        return self.now_s


async def until(condition, reads):
    deadline = time.monotonic() + WAIT_S
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
        await reads.check()


async def read_from(reads):
    return await reads.value("SELECT current_setting('port')::integer")


@pytest.fixture
async def reads(servers):
    primary, replica = servers
    await (await reachable(replica.url)).close()
    clock = Clock()
    made = ReplicatedReads(replica.url, Database(primary.url), size=2, most_lag_s=5.0, clock=clock)
    yield made, clock
    await made.close()


async def test_reports_are_read_from_a_replica_that_is_up_to_date(servers, reads, caplog):
    (primary, replica), (database, clock) = servers, reads
    assert await read_from(database) == primary.port  # it was not looked at yet
    writes = Database(primary.url)
    await writes.execute("CREATE TABLE IF NOT EXISTS written (at integer)")

    async def fresh():
        return database.is_used

    await database.check()
    await until(fresh, database)
    assert await read_from(database) == replica.port
    caplog.set_level("INFO")
    # Replay stands still: what is written now is not there, and the lag grows until the primary is asked.
    paused = Database(replica.url)
    await paused.execute("SELECT pg_wal_replay_pause()")
    await writes.execute("INSERT INTO written VALUES (1)")
    clock.now_s += 4.0
    await database.check()
    assert await read_from(database) == replica.port
    assert database.lag_s == 4.0
    clock.now_s += 1.5
    await database.check()
    assert database.lag_s == 5.5
    assert await read_from(database) == primary.port
    assert await database.value("SELECT count(*) FROM written") == 1
    assert "reports are read from the primary: the replica is 6 s behind" in caplog.text
    await paused.execute("SELECT pg_wal_replay_resume()")
    await until(fresh, database)
    assert await read_from(database) == replica.port
    await paused.close()
    await writes.close()


async def test_a_report_reads_there_in_one_snapshot(servers, reads):
    database, _ = reads

    async def fresh():
        return database.is_used

    await until(fresh, database)
    reports = Reports(database)
    assert (await reports.usage_events(None, 10)).items == ()
    async with database.transaction(snapshot=True) as connection:
        assert await connection.fetchval("SELECT pg_is_in_recovery()")


async def test_of_a_replica_that_ends_one_read_fails(servers, reads):
    (primary, replica), (database, clock) = servers, reads

    async def fresh():
        return database.is_used

    await until(fresh, database)
    replica.stop()
    with pytest.raises(DatabaseUnavailable):
        await read_from(database)
    assert await read_from(database) == primary.port  # at once, although it was fresh
    clock.now_s += 6.0
    await database.check()
    assert not database.is_used
    replica.start()
    await (await reachable(replica.url)).close()
    await until(fresh, database)
    assert await read_from(database) == replica.port


async def test_what_is_no_replica_is_never_asked(servers, caplog):
    primary, _ = servers
    database = ReplicatedReads(primary.url, Database(primary.url), size=1, most_lag_s=5.0)
    await database.check()
    assert not database.is_used
    await database.close()
