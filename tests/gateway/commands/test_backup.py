"""`metergate backup` and `restore`: the ledger comes back as it was, whole or not at all; gateways go on from it."""

import asyncio
import io
import stat
import subprocess
import sys
from asyncio.subprocess import PIPE
from typing import Any

import psutil
import pytest

from billing.cli import REFUSED, USAGE, CommandFailed, Output
from billing.cli.options import Common
from billing.database.connection import Database
from billing.database.urls import program_target
from gateway.commands import postgres_programs
from tests.support.commands import CHECKOUT, WAIT_S, do_curl, with_host

pytestmark = pytest.mark.slow


def value(url: str, query: str) -> Any:
    async def ask() -> Any:
        database = Database(url, size=1)
        try:
            return await database.value(query)
        finally:
            await database.close()

    return asyncio.run(ask())


FILLED = """
INSERT INTO audit_log (actor, action, subject, address)
SELECT 'admin', 'test', n::text, (SELECT string_agg(md5(n::text || k::text), '') FROM generate_series(1, 300) AS k)
FROM generate_series(1, 1000) AS n RETURNING id
"""


def test_a_restore_that_fails_long_before_its_end_ends(shell, stores, database_url):
    """Here at the first table, with ten megabytes that nobody reads any more."""
    value(database_url, FILLED)
    file = shell.folder / "large.backup"
    assert shell.run("backup", str(file), env=stores).code == 0
    output = Output(Common(), io.StringIO(), io.StringIO())

    async def restored() -> None:
        async with asyncio.timeout(WAIT_S):
            await postgres_programs.pour(file, with_host(database_url), output, anew=False)

    with pytest.raises(CommandFailed, match="already exists"):
        asyncio.run(restored())


async def note_of_columns(url: str) -> None:
    """As servers of late 2026 note it; their own superuser alone may."""
    database = Database(url, size=1)
    try:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL allow_system_table_mods = on")
            await connection.execute(
                "UPDATE pg_attribute SET attoptions = '{pg_attver=26961800}' WHERE attnum > 0 AND attrelid IN "
                "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v'))"
            )
    finally:
        await database.close()


def test_what_a_server_notes_of_columns_for_itself_is_not_restored(shell, stores, database_url):
    """Older pg_dumps write it, and no server of another release takes it."""
    file = shell.folder / "noted.backup"
    asyncio.run(note_of_columns(database_url))
    made = shell.run("backup", str(file), "--verify", "--json", env=stores)
    assert made.json["proof"]["ok"], made
    said = "ALTER TABLE ONLY public.accounts ALTER COLUMN id SET (pg_attver="
    name = shell.run("operator", "account", "create", f"{said}1);", "--json", env=stores).json["id"]
    shell.run("backup", str(file), "--force", env=stores)
    assert shell.run("restore", str(file), "--force", "--json", env=stores).json["accounts"] >= 1
    restored = value(database_url, "SELECT count(*) FROM pg_attribute WHERE attoptions::text LIKE '%pg_attver%'")
    assert restored == 0
    assert value(database_url, f"SELECT name FROM accounts WHERE id = '{name}'") == f"{said}1);"  # noqa: S608


def test_traffic_backup_more_traffic_restore(shell):
    """As an operator does it, on the embedded servers."""
    file, others = shell.folder / "ledger.backup", shell.folder / "others"
    others.write_text("another's")
    file.with_name(".ledger.backup.new").symlink_to(others)
    with shell.running("up") as running:
        curl = running.until("curl")
        running.until("Ctrl-C")
        for _ in range(3):
            assert do_curl(curl).status == 200
        account = shell.run("operator", "account", "list", "--json").json["data"][0]["id"]
        made = shell.run("backup", str(file))
        assert made.code == 0, made
        assert len(made.stderr.splitlines()) < 10, "not a line for each of its tables"
        for _ in range(4):
            assert do_curl(curl).status == 200
        shell.run("operator", "grant", account, "7.00")
        assert "Gateways run" in shell.run("restore", str(file), "--force").failed(REFUSED)
        assert running.end() == 0
    assert (others.read_text(), file.is_symlink(), stat.S_IMODE(file.stat().st_mode)) == ("another's", False, 0o600)
    restored = shell.run("restore", str(file), "--force", "--json")
    assert restored.json["accounts"] == 1
    with shell.running("up") as running:
        url = running.until("Metergate serves on").rpartition(" ")[2]
        running.until("Ctrl-C")
        again = curl.replace(curl.partition("http://")[2].partition("/")[0], url.partition("http://")[2])
        assert do_curl(again).status == 200
        assert shell.run("reconcile").code == 0
        shown = shell.run("operator", "account", "show", account, "--json").json
        assert shown["balance_usd"].startswith("4.99")
        assert shell.run("ledger", "verify").code == 0
        assert running.end() == 0


async def test_what_takes_long_says_what_it_is_at(monkeypatch):
    monkeypatch.setattr(postgres_programs, "PROGRESS_S", 0.01)
    dump = """echo 'pg_dump: dumping contents of table "public.{}"' >&2"""
    script = "; ".join(map(dump.format, ("accounts", "usage_events")))
    told = io.StringIO()
    program = await asyncio.create_subprocess_shell(f"{script}; read end", stdin=PIPE, stderr=PIPE)
    words = postgres_programs._Words(Output(Common(), io.StringIO(), told), program.stderr)
    async with asyncio.timeout(60):
        while "  table 2: usage_events ..." not in told.getvalue().splitlines():
            await asyncio.sleep(0.01)
    program.stdin.close()
    await words.read
    await program.wait()


def test_into_an_empty_database(shell, database_url, empty_database_url, redis_url):
    file, url, empty = shell.folder / "a.backup", with_host(database_url), with_host(empty_database_url)
    env = {"DATABASE_URL": url, "REDIS_URL": redis_url}
    assert shell.run("operator", "account", "create", "Acme", env=env).code == 0
    made = shell.run("backup", str(file), "--json", env=env)
    assert made.json == {"file": str(file), "bytes": file.stat().st_size, "removed": [], "proof": None}
    shell.run("backup", str(file), env=env).failed(USAGE)
    assert "nothing of Metergate's" in shell.run("backup", "x", env={"DATABASE_URL": empty}).failed(REFUSED)
    restored = shell.run("restore", str(file), "--json", env={"DATABASE_URL": empty})
    assert (restored.json["accounts"], restored.json["applied"]) == (1, [])
    assert value(empty, "SELECT name FROM accounts") == "Acme"
    with pytest.raises(Exception, match="append-only"):
        value(empty, "DELETE FROM audit_log")
    assert value(empty, "SELECT ledger_identity()") != value(url, "SELECT ledger_identity()")
    assert shell.run("ledger", "verify", env={"DATABASE_URL": empty}).code == 0
    assert "--force" in shell.run("restore", str(file), env={"DATABASE_URL": empty}).failed(REFUSED)
    again = shell.run("restore", str(file), "--force", env={"DATABASE_URL": empty})
    assert again.code == 0, again
    twice = shell.run("backup", str(file), "--force", env={"DATABASE_URL": empty})
    assert twice.code == 0, twice
    assert shell.run("restore", str(file), "--force", env={"DATABASE_URL": empty}).code == 0


def test_what_is_no_backup_changes_nothing(shell, database_url, redis_url):
    url, file = with_host(database_url), shell.folder / "a.backup"
    env = {"DATABASE_URL": url, "REDIS_URL": redis_url}
    assert "no file" in shell.run("restore", "nowhere", env=env).failed(USAGE)
    for text in (b"", b"PGDMP", b"CREATE TABLE x ();"):
        file.write_bytes(text)
        shell.run("restore", str(file), "--force", env=env).failed(REFUSED)
    assert shell.run("operator", "account", "create", "Acme", env=env).code == 0
    assert shell.run("backup", str(file), "--force", env=env).code == 0
    whole = file.read_bytes()
    for part in (len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:part])
        shell.run("restore", str(file), "--force", env=env).failed(REFUSED)
        assert value(url, "SELECT count(*) FROM accounts") == 1
    spoilt = bytearray(whole)
    spoilt[-2000:-1500] = bytes(500)
    file.write_bytes(spoilt)
    if shell.run("restore", str(file), "--force", env=env).code:
        assert value(url, "SELECT count(*) FROM accounts") == 1


def test_one_of_a_newer_version_is_refused(shell, database_url, redis_url):
    url, file = with_host(database_url), shell.folder / "a.backup"
    env = {"DATABASE_URL": url, "REDIS_URL": redis_url}
    value(url, "INSERT INTO migrations (number, name, digest, rolls) VALUES (9999, 'later', '', true) RETURNING 1")
    assert shell.run("backup", str(file), env=env).code == 0
    assert "newer version (migration 9999)" in shell.run("restore", str(file), "--force", env=env).failed(REFUSED)


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://me:s%40cret@h:5432/d?sslmode=require", "postgresql://me@h:5432/d?sslmode=require", "s@cret"),
        ("postgresql://me@/d?host=%2Frun&statement_cache_size=0", "postgresql://me@/d?host=%2Frun", None),
        ("postgresql://h/d?password=x%20y&user=me", "postgresql://h/d?user=me", "x y"),
        ("postgres://a:b@h1:1,h2:2/d", "postgres://a@h1:1,h2:2/d", "b"),
    ],
)
def test_no_password_is_an_argument(url, shown, password):
    options, secret = program_target(url)
    assert options == ("--no-password", f"--dbname={shown}")
    assert secret == ({} if password is None else {"PGPASSWORD": password})


SLEEPING = """
import asyncio, sys
from gateway.commands.postgres_programs import _started
async def work():
    async with _started("psql", ("--command=SELECT pg_sleep(600)",), sys.argv[1]) as program:
        print(program.pid, flush=True)
        await program.wait()
asyncio.run(work())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end")
def test_a_command_that_is_killed_takes_the_programs_along(database_url):
    command = [sys.executable, "-c", SLEEPING, database_url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert process.stdout is not None
    program = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    process.stdout.close()
    assert psutil.wait_procs([program], timeout=WAIT_S)[1] == []
