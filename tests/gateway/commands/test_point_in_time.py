"""Recovery to a point in time, as docs/operations.md has it: a base backup, archived WAL, a moment before an accident.

Redis keeps what it has: it is of another ledger then, and gateways begin a new epoch.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from billing.database.connection import Database
from gateway.embedded.process import postgres_bin
from gateway.embedded.servers import EmbeddedServers
from tests.support.answering import until
from tests.support.commands import Shell, fetch, with_host

pytestmark = pytest.mark.slow

REPLICATION = "local replication metergate peer map=metergate\n"
CHAT = b'{"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}'


@pytest.fixture
def folder():
    """One that the user that Postgres runs as can pass through, with an archive that it can write to."""
    made = Path(tempfile.mkdtemp(prefix="mg-")).resolve()
    made.chmod(0o711)
    for name in ("archive", "home"):
        (made / name).mkdir()
        (made / name).chmod(0o777)
    yield made
    shutil.rmtree(made)


def archiving(folder):
    return {"archive_mode": "on", "archive_command": f"test ! -f {folder}/archive/%f && cp %p {folder}/archive/%f"}


async def base_backup(url, data, into):
    """pg_basebackup, whose user may replicate."""
    with (data / "postgres" / "pg_hba.conf").open("a") as file:
        file.write(REPLICATION)
    database = Database(url, size=1)
    await database.execute("SELECT pg_reload_conf()")
    await database.close()
    parts = urlsplit(url)
    host = ("--host", parse_qs(parts.query)["host"][0], "--username", str(parts.username))
    command = [str(postgres_bin(None) / "pg_basebackup"), "--pgdata", str(into), "--checkpoint=fast", *host]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def serving(shell, url, redis_url):
    """A gateway on these stores, and what asks it to answer once."""
    env = {"DATABASE_URL": with_host(url), "REDIS_URL": redis_url}
    shell.env.update(env)
    with shell.running("serve") as running:
        address = await asyncio.to_thread(lambda: running.until("Metergate serves on").rpartition(" ")[2])

        async def ask(key):
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            answer = await asyncio.to_thread(fetch, f"{address}/v1/chat/completions", headers, CHAT)
            return answer.status

        yield ask
        assert await asyncio.to_thread(running.end) == 0


async def test_a_ledger_comes_back_as_it_was_before_an_accident(folder, redis_url):
    shell = Shell(folder / "home")
    run = lambda *arguments: asyncio.to_thread(shell.run, *arguments)  # noqa: E731
    async with EmbeddedServers(folder / "first", postgres_options=archiving(folder)) as servers:
        url = servers.endpoints.database_url
        shell.env = {"DATABASE_URL": with_host(url), "REDIS_URL": redis_url}
        assert (await run("migrate")).code == 0
        account = (await run("operator", "account", "create", "Acme", "--json")).json["id"]
        await run("operator", "grant", account, "5.00", "--json")
        key = (await run("operator", "key", "create", account, "laptop", "--json")).json["key"]
        async with serving(shell, url, redis_url) as ask:
            assert await ask(key) == 200
        await base_backup(url, folder / "first", folder / "base")
        async with serving(shell, url, redis_url) as ask:
            assert [await ask(key) for _ in range(3)] == [200] * 3
        database = Database(url, size=1)
        events = "SELECT count(*) FROM usage_events"
        assert await database.value(events) == 4
        moment: datetime = await database.value("SELECT clock_timestamp()")
        balance = await database.value("SELECT balance_nano FROM accounts WHERE id = $1", account)
        async with serving(shell, url, redis_url) as ask:
            assert await ask(key) == 200
        await database.execute("DROP TABLE transfers CASCADE")  # the accident
        wal = await database.value("SELECT pg_walfile_name(pg_switch_wal())")
        await until(lambda: archived(database, wal))
        await database.close()
    data = folder / "second" / "postgres"
    data.parent.mkdir(mode=0o711)
    shutil.move(folder / "base", data)
    (data / "recovery.signal").touch()
    give(data, like=folder / "first" / "postgres")
    recovery = {
        "restore_command": f"cp {folder}/archive/%f %p",
        "recovery_target_time": moment.isoformat(),
        "recovery_target_action": "promote",
    }
    async with EmbeddedServers(folder / "second", postgres_options=recovery) as servers:
        url = servers.endpoints.database_url
        database = Database(url, size=1)
        await until(lambda: promoted(database))
        assert await database.value(events) == 4
        assert await database.value("SELECT balance_nano FROM accounts WHERE id = $1", account) == balance
        # Redis has charged a fifth request, which this ledger has never seen: it is of another epoch.
        async with serving(shell, url, redis_url) as ask:
            assert await ask(key) == 200
        assert await database.value(events) == 5
        assert (await run("reconcile")).code == 0
        assert (await run("ledger", "verify")).code == 0
        assert (await run("doctor", "--json")).json["ok"]
        await database.close()


def give(data, *, like):
    """To the user that Postgres runs as."""
    owner = like.stat()
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


async def archived(database, wal):
    return (await database.value("SELECT last_archived_wal FROM pg_stat_archiver") or "") >= wal


async def promoted(database):
    return not await database.value("SELECT pg_is_in_recovery()")
