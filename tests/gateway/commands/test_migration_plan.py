"""`metergate migrate --plan`: what Postgres says that migrations lock, by a scratch database of the ledger's schema."""

import json
import subprocess
import sys

import pytest

from billing.cli.output import USAGE
from billing.database.connection import Database
from billing.ledger.verify import verify
from gateway.commands.migration_plan import Locked, Step, _estimate_s, shown
from tests.support.commands import CHECKOUT, WAIT_S, with_host

pytestmark = pytest.mark.slow


def later(shell, stores, *arguments):
    """The command of a release with more migrations."""
    command = [sys.executable, "-m", "tests.chaos.later", "migrate", *arguments]
    env = shell.environment(stores)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, env=env, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [(), ("--copy",)])
async def test_it_says_what_each_migration_locks_and_changes_nothing(shell, stores, database_url, options):
    database = Database(database_url)
    try:
        await database.execute("INSERT INTO accounts (id, name, plan) VALUES ('acc_1', 'One', 'free')")
        before = await database.value("SELECT count(*) FROM pg_class")
        steps = {
            each["name"]: each for each in json.loads(later(shell, stores, "--plan", *options, "--json"))["migrations"]
        }
        assert await database.value("SELECT count(*) FROM pg_class") == before
        assert (await verify(database)).ok
    finally:
        await database.close()
    assert list(steps) == ["9001_days", "9002_column", "9003_mended", "9004_index", "9005_check", "9006_moved"]
    assert all(each["measured"] is bool(options) and each["rolls"] for each in steps.values())
    locks = {name: {lock["table"]: lock for lock in each["locks"]} for name, each in steps.items()}
    assert locks["9002_column"]["usage_events"]["mode"] == "AccessExclusiveLock"
    assert not locks["9002_column"]["usage_events"]["read"]
    assert locks["9003_mended"]["usage_events"]["read"]
    assert locks["9004_index"]["transfers"]["mode"] == "ShareLock"
    assert locks["9005_check"]["transfers"]["mode"] == "AccessExclusiveLock"
    assert locks["9005_check"]["transfers"]["read"]
    assert "usage_events" not in locks["9006_moved"]
    text = later(shell, stores, "--plan")
    assert "reads and writes wait" in text
    assert "Gateways may run on" in text


def test_a_schema_that_is_up_to_date_has_nothing_pending(shell, stores):
    assert shell.run("migrate", "--plan", "--json", env=stores).json == {"migrations": []}
    assert "--copy is of --plan" in shell.run("migrate", "--copy", env=stores).failed(USAGE)


def test_a_new_database_has_nothing_to_wait_for(shell, stores, empty_database_url):
    [schema] = shell.run(
        "migrate", "--plan", "--json", env={**stores, "DATABASE_URL": with_host(empty_database_url)}
    ).json["migrations"]
    assert (schema["name"], schema["locks"]) == ("0001_schema", [])


def test_the_time_is_that_of_what_is_read_and_written():
    def locked(mode: str, *, read: bool = False, rewritten: bool = False) -> Locked:
        return Locked("transfers", mode, "", 100_000_000, 1, read, rewritten)

    assert _estimate_s([locked("AccessExclusiveLock")]) == 0
    assert _estimate_s([locked("AccessExclusiveLock", read=True)]) == 2
    assert _estimate_s([locked("AccessExclusiveLock", read=True, rewritten=True)]) == 12
    assert _estimate_s([locked("ShareLock", read=True)]) == 12


def test_one_that_does_not_roll_says_so():
    step = Step("9001_apart", rolls=False, locks=(), seconds=0.0, measured=True)
    assert "Stop the gateways of the release before first: 9001_apart does not roll" in str(shown([step]).parts)
