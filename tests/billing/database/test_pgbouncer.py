"""Behind PgBouncer in transaction mode: a real one, of which every transaction gets another session of Postgres."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from billing.database.connection import Database, DatabaseUnavailable
from billing.database.migrate import migrate, pending
from billing.ledger.sums import roll
from billing.ledger.verify import verify
from billing.ledger.writer import write_debits
from billing.money import NANO_PER_USD
from gateway.embedded.folders import server_account
from tests.billing.ledger.test_debits import account, assert_consistent, debit
from tests.support.ports import free_port

__all__ = ["account"]

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="no pgbouncer here (Debian's package has it)")

SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
server_round_robin = 1
logfile = {folder}/log
"""


@pytest.fixture
def pooled_url(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The test's database by way of PgBouncer, which has three sessions and takes the longest unused first."""
    parts = urlsplit(database_url)
    options = parse_qs(parts.query)
    host, port = options["host"][0], options.get("port", ["5432"])[0]
    listen = free_port()
    folder = tmp_path_factory.mktemp("pgbouncer")
    folder.chmod(0o777)
    top = Path(tempfile.gettempdir())
    for above in folder.parents:
        if above != top and above.is_relative_to(top):
            above.chmod(above.stat().st_mode | 0o711)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        SETTINGS.format(host=host, port=port, user=parts.username or "postgres", listen=listen, folder=folder)
    )
    account = server_account(print)  # as root neither runs as root, and Postgres lets in its own user
    user = [] if account is None else ["-u", account.name]
    process = subprocess.Popen([str(PGBOUNCER), *user, str(settings)], stderr=subprocess.DEVNULL)
    try:
        yield f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{listen}{parts.path}?statement_cache_size=0"
    finally:
        process.terminate()
        process.wait()


async def reachable(url: str) -> Database:
    database = Database(url, size=8)
    async with asyncio.timeout(60):
        while True:
            try:
                await database.value("SELECT 1")
            except DatabaseUnavailable:
                await asyncio.sleep(0.02)
            else:
                return database


async def sessions_of(database: Database) -> int:
    """How many sessions of Postgres it is given: it asks for several at once, and then one after the other."""
    asked = (database.value("SELECT pg_backend_pid() FROM pg_sleep(0.05)") for _ in range(6))
    await asyncio.gather(*asked)
    return len({await database.value("SELECT pg_backend_pid()") for _ in range(12)})


async def test_all_that_is_asked_of_postgres_works_behind_it(billing, account, pooled_url):
    database = await reachable(pooled_url)
    try:
        assert await sessions_of(database) > 1, "every transaction may get another session"
        batches = [[debit(account) for _ in range(20)] for _ in range(20)]
        stored = await asyncio.gather(*(write_debits(database, batch) for batch in batches))
        assert sum(map(len, stored)) == 400
        again = await asyncio.gather(*(write_debits(database, batch) for batch in batches))
        assert not any(each.fresh for answer in again for each in answer.values())
        assert await database.value("SHOW timezone") == "UTC"
        assert await database.value("SELECT quotas FROM accounts WHERE id = $1", account.id) == []
        while await roll(database):
            pass
        assert (await verify(database)).checks
        assert await database.value("SELECT balance_nano FROM accounts WHERE id = $1", account.id) == (
            NANO_PER_USD - 400 * 500
        )
        assert await database.value("SELECT count(*) FROM debits_set_aside") == 0
        await assert_consistent(database)
    finally:
        await database.close()


async def test_migrations_work_behind_it(billing, pooled_url):
    database = await reachable(pooled_url)
    try:
        assert await asyncio.gather(*(migrate(pooled_url) for _ in range(3))) == [[], [], []]
        assert await pending(database) == []
    finally:
        await database.close()


async def test_without_the_setting_no_debit_is_lost_and_the_error_says_what_to_set(billing, account, pooled_url):
    other = await reachable(pooled_url)
    assert await sessions_of(other) > 1
    await other.close()
    keeping, message = Database(pooled_url.replace("?statement_cache_size=0", "")), ""
    try:
        for _ in range(40):
            batch = [debit(account)]
            for _ in range(200):
                try:
                    await write_debits(keeping, batch)
                    break
                except DatabaseUnavailable as error:
                    message = message or str(error)
            else:
                pytest.fail("it is never written")
        assert "statement_cache_size=0" in message
        assert await billing.database.value("SELECT count(*) FROM debits_set_aside") == 0
        assert await billing.database.value("SELECT count(*) FROM usage_events") == 40
        await assert_consistent(billing.database)
    finally:
        await keeping.close()
