"""A Postgres that was restored from a backup, or is a new one, beside a Redis that knows more.

Everybody is served again, from what the ledger has now; what the backup does not have is gone, and nothing else.
"""

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from billing.database.connection import Database
from billing.holds.engine import EngineSettings
from billing.holds.model import Hold, Reload
from billing.keys.secrets import secret_digest
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from gateway.embedded.process import postgres_bin
from tests.support.holds import (
    PATIENT,
    World,
    ask,
    assert_agreed,
    debits,
    delete,
    eventually,
    hold_one,
    joined,
    keys_in_redis,
    ledger_balance,
    partition_of,
    settle,
    spend,
)
from tests.support.servers import Databases


def name_of(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


async def replace_database(databases: Databases, name: str, by: str) -> None:
    """Whoever is connected loses its connection, and finds the other one under the name."""
    server, before = Database(databases.url("postgres"), size=1), f"before_{name}"
    await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await server.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = $1", name)
    await server.execute(f"ALTER DATABASE {name} RENAME TO {before}")
    await server.execute(f"ALTER DATABASE {by} RENAME TO {name}")
    await server.close()
    await asyncio.to_thread(databases.drop, before)


DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)


class Backup:
    """Dumps and restores a database by its server's own programs, as an operator does."""

    def __init__(self, databases: Databases, url: str, folder: Path) -> None:
        self._databases, self._url, self._file = databases, url, str(folder / "ledger.dump")
        self._name = name_of(url)

    async def dump(self) -> None:
        await self._run("pg_dump", "--format=custom", f"--file={self._file}", self._url)

    async def restore(self) -> None:
        """Into a database beside the old one, which then takes its place."""
        beside = f"restored_{self._name}"
        url = await asyncio.to_thread(self._databases.create, beside)
        await self._run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", self._file)
        await replace_database(self._databases, self._name, beside)

    async def _run(self, program: str, *arguments: str) -> None:
        command = [str(postgres_bin(None) / program), *arguments]
        await asyncio.to_thread(subprocess.run, command, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture
def backup(databases: Databases, database_url: str, tmp_path: Path) -> Backup:
    return Backup(databases, database_url, tmp_path)


async def stop(world: World) -> None:
    """The gateway ends as it should."""
    assert await world.engine.stop()
    await world.database.close()


async def in_epoch_after(world: World, epoch: int) -> bool:
    return (partition_of(world).epoch or 0) > epoch


async def is_told_to_reload(world: World, principal: Principal) -> bool:
    decision = await ask(world, principal)
    if isinstance(decision, Hold):
        await world.engine.holds.void(decision)
    return isinstance(decision, Reload)


async def begin_epochs(world: World, count: int) -> None:
    for _ in range(count):
        await world.engine.partitions.renew(partition_of(world))
        await eventually(lambda: joined(world))


@pytest.mark.parametrize("epochs_since", [0, 1, 3])
async def test_a_ledger_restored_from_a_backup_serves_everybody_again(make_world, backup, epochs_since):
    """The procedure of docs/reliability.md: gateways stopped, the ledger restored, gateways started."""
    brief = replace(PATIENT, lease_s=3.0)  # the lease is restored, too, and the next gateway watches it for as long
    world = await make_world(brief)
    principal, other = await world.customer(10**9), await world.customer(10**9)
    kept = await spend(world, principal)
    await world.engine.outbox.flush()
    await backup.dump()
    for each in (principal, other):
        await spend(world, each)
        await world.grants.grant(each.account_id, 10**6, f"later {each.account_id}", None)
    await begin_epochs(world, epochs_since)
    await spend(world, principal)
    epoch = partition_of(world).epoch or 0
    await stop(world)
    await backup.restore()

    world = await make_world(brief)
    assert await in_epoch_after(world, epoch)
    again = await spend(world, principal)
    await assert_agreed(world, principal.account_id)
    assert await debits(world) == {kept: 500, again: 500}
    assert await ledger_balance(world, principal.account_id) == 10**9 - 1000
    await world.grants.grant(other.account_id, 10**7, "after", None)
    await spend(world, other)
    await assert_agreed(world, other.account_id)
    assert (await world.account_state(other.account_id)).balance_nano == 10**9 + 10**7 - 500


async def test_a_ledger_that_is_restored_under_living_gateways_is_noticed(make_world, backup):
    patient = EngineSettings(lease_s=60.0)  # a restore may take longer than a lease of its own, and both gateways live
    world, other = await make_world(patient), await make_world(patient)
    principal = await world.customer(10**9)
    await spend(world, principal)
    await world.engine.outbox.flush()
    await backup.dump()
    lost = await spend(world, principal)
    await world.engine.outbox.flush()
    running = [await hold_one(world, principal), await hold_one(other, principal)]
    epoch = partition_of(world).epoch or 0
    await backup.restore()

    async def is_held_again():
        state = await world.account_state(principal.account_id)
        known = (state.balance_nano, state.held_nano, state.epoch > epoch)
        return known == (10**9 - 500, 4000, True)

    await eventually(is_held_again)
    for gateway, hold in zip((world, other), running, strict=True):
        await settle(gateway, principal, hold)
    await assert_agreed(world, principal.account_id)
    assert lost not in await debits(world)
    assert await ledger_balance(world, principal.account_id) == 10**9 - 1500


async def set_back(world: World) -> None:
    """As a snapshot of the volume does: nothing about the server or the database tells."""
    await world.database.execute("UPDATE installation SET beat = beat - 1000")


async def test_a_ledger_that_was_set_back_by_its_volume_is_noticed(make_world):
    world = await make_world()
    principal = await world.customer(10**9)
    await spend(world, principal)

    async def has_beaten():
        return bool(await world.link.command("HGET", world.keys.meta(0), "beat") > b"0")

    await eventually(has_beaten)
    epoch = partition_of(world).epoch or 0
    await set_back(world)
    await eventually(lambda: in_epoch_after(world, epoch))
    await spend(world, principal)
    await assert_agreed(world, principal.account_id)

    epoch = partition_of(world).epoch or 0
    await stop(world)
    await set_back(world)
    world = await make_world()
    assert await in_epoch_after(world, epoch)
    await spend(world, principal)
    await assert_agreed(world, principal.account_id)


async def test_a_ledger_that_was_set_back_by_a_second_is_noticed(make_world):
    """As by commits that a crash took, where they were not waited for: less than the beats that Redis is told of."""
    worlds = [await make_world(), await make_world()]
    principal = await worlds[0].customer(10**9)
    await spend(worlds[0], principal)
    await worlds[0].engine.outbox.flush()
    epoch, meta = partition_of(worlds[0]).epoch or 0, worlds[0].keys.meta(0)

    async def is_ahead():
        return worlds[0].engine.partitions.ledger.beat - int(await worlds[0].link.command("HGET", meta, "beat")) > 5

    await eventually(is_ahead)
    async with worlds[0].database.transaction() as connection:
        await connection.execute("UPDATE installation SET beat = beat - 4")
        await connection.execute("UPDATE accounts SET balance_nano = $2 WHERE id = $1", principal.account_id, 10**9)
    for world in worlds:
        await eventually(lambda world=world: in_epoch_after(world, epoch))
    await spend(worlds[1], principal)
    assert (await worlds[1].account_state(principal.account_id)).balance_nano == 10**9 - 500
    assert (partition_of(worlds[1]).epoch or 0) <= epoch + len(worlds)


async def test_no_epoch_comes_twice_though_both_stores_have_forgotten_it(make_world, backup):
    """The ledger is restored and Redis emptied under a living gateway, whose debits are of an epoch that neither has
    heard of: they are not taken for debits of the next one."""
    world = await make_world(EngineSettings(lease_s=60.0))
    principal = await world.customer(10**9)
    await spend(world, principal)
    await world.engine.outbox.flush()
    await backup.dump()
    await begin_epochs(world, 1)
    epoch = partition_of(world).epoch or 0
    await world.engine.loops.stop("outbox")
    waiting = await spend(world, principal)
    await backup.restore()
    await delete(world, *await keys_in_redis(world))
    await eventually(lambda: in_epoch_after(world, epoch))
    await spend(world, principal)
    await world.engine.outbox.flush()
    assert waiting in await debits(world)
    await assert_agreed(world, principal.account_id)


async def test_a_new_ledger_beside_an_older_redis_is_served_from_what_it_has(
    make_world, databases, database_url, template_database
):
    world = await make_world()
    principal = await world.customer(10**9)
    await spend(world, principal)
    await begin_epochs(world, 4)
    running = await hold_one(world, principal)
    await asyncio.to_thread(databases.create, "brand_new", template_database)
    await replace_database(databases, name_of(database_url), "brand_new")

    await eventually(lambda: is_told_to_reload(world, principal))
    newcomer = await world.customer(10**8)
    await spend(world, newcomer)
    await assert_agreed(world, newcomer.account_id)
    assert await ledger_balance(world, newcomer.account_id) == 10**8 - 500
    world.engine.holds.live.pop(running.id)


async def test_a_principal_of_a_newer_ledger_is_read_again(make_world, backup):
    """A gateway knows a version of the account that the restored ledger has not."""
    world = await make_world()
    made = await world.accounts.create("Test")
    await world.grants.grant(made.id, 10**9, "first", None)
    key, secret = await world.api_keys.create(made.id, "test")
    await backup.dump()
    await world.accounts.set_quotas(made.id, (DAY_TOKENS,))
    await world.api_keys.update(key.id, {"quotas": (DAY_TOKENS,)})
    newer = await world.engine.cache.reload(secret_digest(secret))
    assert newer is not None
    await spend(world, newer)
    await world.engine.outbox.flush()
    await backup.restore()

    await eventually(lambda: is_told_to_reload(world, newer))
    restored = await world.engine.cache.reload(secret_digest(secret))
    assert restored is not None
    await spend(world, restored)
    await assert_agreed(world, made.id)


async def test_an_account_that_redis_knows_more_of_than_the_ledger_begins_a_new_epoch(world, principal):
    await spend(world, principal)
    await world.engine.outbox.flush()
    await world.grants.grant(principal.account_id, 10**6, "lost", None)
    epoch = partition_of(world).epoch or 0
    async with world.database.transaction() as connection:
        await connection.execute("UPDATE accounts SET xseq = xseq - 1, pushed_xseq = 0, balance_nano = 10^9 - 500")
        await connection.execute("DELETE FROM corrections WHERE delta_nano = 1000000")

    await world.engine.corrections.sync(partition_of(world), principal.account_id)
    await eventually(lambda: in_epoch_after(world, epoch))
    await world.grants.grant(principal.account_id, 10**7, "arrives", None)
    await spend(world, principal)
    await assert_agreed(world, principal.account_id)
    assert (await world.account_state(principal.account_id)).balance_nano == 10**9 + 10**7 - 1000
