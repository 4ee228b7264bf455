"""Several gateways on one Redis Cluster: whatever happens to its servers, nothing is lost and nothing counted twice."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest
from redis.crc import key_slot
from ulid import ULID

from billing.holds.model import Hold, InsufficientBalance, QuotaExceeded, Unavailable
from billing.holds.redis.layout import HELD, Entry, Keyspace
from billing.keys.secrets import secret_digest
from billing.ledger.verify import verify
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import MakeWorld, World, debit, hold_request, need
from tests.support.redis_cluster import MASTERS, Node, RedisCluster, spread_prefix

PARTITIONS = 16
GATEWAYS = 3
ACCOUNTS_A_MASTER = 3
BALANCE_NANO = 10**9
COST_NANO = 500
WAIT_S = 60.0
POLL_S = 0.02


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for at most WAIT_S."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pytest.fail(f"not within {WAIT_S} s: {what}")


@dataclass
class Load:
    """What many requests at once have come to. Times are of the loop's clock."""

    settled: dict[str, str] = field(default_factory=dict)
    admitted: list[tuple[float, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def admissions(self, since_s: float, accounts: Iterable[str]) -> Counter[str]:
        """How many each of these accounts has had since then."""
        wanted = set(accounts)
        return Counter(account for at_s, account in self.admitted if at_s > since_s and account in wanted)


@dataclass
class Fleet:
    """Gateways that share a cluster, and accounts on every master of it."""

    cluster: RedisCluster
    keys: Keyspace
    worlds: list[World]
    principals: list[Principal] = field(default_factory=list)

    def master_of(self, principal: Principal) -> Node:
        return self.cluster.master_of(self.keys.account(principal.account_id))

    def at(self, master: Node) -> list[Principal]:
        return [each for each in self.principals if self.master_of(each) is master]

    def partitions_at(self, master: Node) -> set[int]:
        return {p for p in range(PARTITIONS) if self.cluster.master_of(self.keys.meta(p)) is master}

    async def customers(self) -> None:
        """Make accounts until every master has some."""
        of_master = Counter[int]()
        while len(of_master) < MASTERS or min(of_master.values()) < ACCOUNTS_A_MASTER:
            principal = await self.worlds[0].customer(BALANCE_NANO)
            port = self.master_of(principal).port
            if of_master[port] < ACCOUNTS_A_MASTER:
                of_master[port] += 1
                self.principals.append(principal)

    async def epochs(self) -> dict[int, int]:
        rows = await self.worlds[0].database.rows("SELECT p, epoch FROM partitions")
        return {row["p"]: row["epoch"] for row in rows}

    def agrees(self) -> bool:
        """Whether every gateway takes part in one and the same epoch of each partition."""
        views = {
            tuple((each.epoch, each.joined_epoch) for each in world.engine.partitions.all) for world in self.worlds
        }
        return len(views) == 1 and all(epoch is not None and epoch == joined for epoch, joined in views.pop())


@pytest.fixture
def keyspace(redis_cluster: RedisCluster) -> Keyspace:
    return Keyspace(spread_prefix(redis_cluster, PARTITIONS), PARTITIONS)


@pytest.fixture
def redis_url(redis_cluster: RedisCluster) -> str:
    return redis_cluster.url


@pytest.fixture
async def fleet(redis_cluster: RedisCluster, keyspace: Keyspace, make_world: MakeWorld) -> Fleet:
    worlds = list(await asyncio.gather(*(make_world(hanging_s=5.0) for _ in range(GATEWAYS))))
    fleet = Fleet(redis_cluster, keyspace, worlds)
    await until(fleet.agrees, "all gateways take part")
    await fleet.customers()
    return fleet


async def request(world: World, principal: Principal, load: Load, chance: random.Random | None = None) -> None:
    """One request: held and settled; by chance worked for, or given back. One that is refused rests a moment.

    A settlement that is lost raises SettlementLost.
    """
    request_id = str(ULID())
    expired = debit(request_id, principal)
    async with world.engine.holds.open(hold_request(request_id, principal, need(), expired)) as hold:
        if not isinstance(hold, Hold):
            load.refused[f"{hold}"] += 1
            await asyncio.sleep(0.05)
            return
        load.admitted.append((asyncio.get_running_loop().time(), principal.account_id))
        if chance is not None:
            await asyncio.sleep(chance.random() * 0.05)
            if chance.random() < 0.1:
                return
        await world.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))
        load.settled[request_id] = principal.account_id


@asynccontextmanager
async def under_load(fleet: Fleet, load: Load, at_once: int = 5) -> AsyncIterator[None]:
    """Every gateway serves so many requests at once, on all accounts."""
    stopping = asyncio.Event()

    async def client(world: World, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311
        while not stopping.is_set():
            await request(world, chance.choice(fleet.principals), load, chance)

    async with asyncio.TaskGroup() as clients:
        for at, world in enumerate(fleet.worlds):
            for seed in range(at_once):
                clients.create_task(client(world, at * at_once + seed))
        try:
            yield
        finally:
            stopping.set()


@asynccontextmanager
async def running(fleet: Fleet, principals: Sequence[Principal], load: Load) -> AsyncIterator[list[Hold]]:
    """One long request at each gateway for each of these accounts, settled at the end of the block."""
    async with AsyncExitStack() as stack:
        holds = []
        for world in fleet.worlds:
            for principal in principals:
                request_id = str(ULID())
                expired = debit(request_id, principal)
                opening = world.engine.holds.open(hold_request(request_id, principal, need(), expired))
                hold = await stack.enter_async_context(opening)
                assert isinstance(hold, Hold)
                holds.append((world, principal, hold))
        yield [hold for _, _, hold in holds]
        for world, principal, hold in holds:
            await world.engine.holds.settle(hold, debit(hold.id, principal, admitted_at_ms=hold.admitted_at_ms))
            load.settled[hold.id] = principal.account_id


async def new_epochs(fleet: Fleet, before: dict[int, int], hit: set[int]) -> dict[int, int]:
    """The epochs once new ones have begun in the partitions that were hit, and in no others."""
    async with asyncio.timeout(WAIT_S):
        while True:
            after = await fleet.epochs()
            changed = {number for number in after if after[number] != before[number]}
            if changed >= hit and fleet.agrees():
                assert changed == hit
                return after
            await asyncio.sleep(POLL_S)


async def journal_of(fleet: Fleet, partition: int) -> dict[str, Entry]:
    name = fleet.keys.journal(partition).decode()
    entries = fleet.worlds[0].link.scan_hash(name, 100)
    return {field.decode(): Entry.unpack(raw) async for field, raw in entries}


async def held_again(fleet: Fleet, holds: Sequence[Hold], epochs: dict[int, int]) -> bool:
    """Whether each of these holds stands in Redis, in the partition's epoch of now."""
    for hold in holds:
        number = hold.target.partition.number
        entry = (await journal_of(fleet, number)).get(hold.id)
        if entry is None or (entry.state, entry.epoch) != (HELD, epochs[number]):
            return False
    return True


async def quiet(fleet: Fleet) -> None:
    """Wait until nothing is on its way: all gateways agree, every journal is empty."""
    await until(fleet.agrees, "all gateways take part")
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                for world in fleet.worlds:
                    await world.engine.outbox.flush()
                left = [await journal_of(fleet, number) for number in range(PARTITIONS)]
                if not any(left):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pytest.fail(f"left in the journals: {left}")


async def assert_exact(fleet: Fleet, load: Load) -> None:
    """Assert that exactly the settled requests have a debit, and that Redis agrees with the ledger."""
    await quiet(fleet)
    world, spent = fleet.worlds[0], Counter(load.settled.values())
    rows = await world.database.rows("SELECT request_id, outcome, charged_nano FROM usage_events")
    assert Counter(row["request_id"] for row in rows) == Counter(load.settled.keys())
    assert {(row["outcome"], row["charged_nano"]) for row in rows} == {("settled", COST_NANO)}
    for principal in fleet.principals:
        account_id, left = principal.account_id, BALANCE_NANO - COST_NANO * spent[principal.account_id]
        assert await world.database.value("SELECT balance_nano FROM accounts WHERE id = $1", account_id) == left
        id_ = str(ULID())  # has the account loaded, where nothing has since the last epoch began
        async with world.engine.holds.open(hold_request(id_, principal)) as hold:
            assert isinstance(hold, Hold), hold
        state = await world.account_state(account_id)
        assert state.epoch == world.engine.partitions.of(account_id).epoch
        assert (state.balance_nano, state.held_nano, state.running) == (left, 0, 0)
    for each in fleet.worlds:
        report = await each.engine.reconciler.run()
        assert (report.accounts, report.drifts) == (len(fleet.principals), ())
        assert each.engine.holds.live == {}
    checks = (await verify(world.database)).checks
    assert [check for check in checks if check.name != "prices" and check.differences] == []  # the price row is made up


def kinds(load: Load) -> set[str]:
    """Why requests were refused: the names of the decisions."""
    return {refusal.partition("(")[0] for refusal in load.refused}


async def test_the_same_code_serves_a_cluster(fleet):
    load = Load()
    async with under_load(fleet, load):
        await until(lambda: len(load.settled) > 200, "requests are served")
    assert not load.refused
    assert {fleet.cluster.master_of(fleet.keys.account(each)).port for each in load.settled.values()} == {
        node.port for node in fleet.cluster.nodes if node.is_master
    }
    await assert_exact(fleet, load)


def unknown(world: World, digest: bytes) -> bool:
    """Whether a gateway has forgotten the principal of a key."""
    return world.engine.cache.peek(digest) is None


async def test_changes_reach_every_gateway(fleet):
    first, *others = fleet.worlds
    for master in (node for node in fleet.cluster.nodes if node.is_master):
        account_id = fleet.at(master)[0].account_id
        _, secret = await first.api_keys.create(account_id, "test")
        digest = secret_digest(secret)

        async def outcome(world, digest=digest):
            principal = await world.engine.cache.get(digest)
            assert principal is not None
            load = Load()
            await request(world, principal, load)
            return kinds(load)

        for world in others:
            assert await outcome(world) == set()
        await first.grants.grant(account_id, 7, str(ULID()), None)
        assert (await others[0].account_state(account_id)).balance_nano == BALANCE_NANO - 2 * COST_NANO + 7
        await first.accounts.set_quotas(account_id, (Quota(Window.total, Metric.requests, 3),))
        for world in others:
            await until(partial(unknown, world, digest), "every gateway was told")
        assert await outcome(others[0]) == set()
        assert await outcome(others[1]) == {QuotaExceeded.__name__}
        stale = await others[1].engine.cache.get(digest)
        row = await first.api_keys.revoke(stale.key_id)
        load = Load()
        await request(others[1], stale, load)
        assert kinds(load) == {Unavailable.__name__}
        fresh = await others[1].engine.cache.reload(digest)
        assert row.revoked_at is not None
        assert fresh.revoked_at_s is not None
    poor = await first.customer(0)
    load = Load()
    await request(others[0], poor, load)
    assert kinds(load) == {InsufficientBalance.__name__}


async def test_a_master_dies_and_what_its_replica_lacks_is_not_lost(fleet):
    cluster, load, clock = fleet.cluster, Load(), asyncio.get_running_loop().time
    master = fleet.master_of(fleet.principals[0])
    replica, hit = cluster.replica_of(master), fleet.partitions_at(master)
    of_it = [each.account_id for each in fleet.at(master)]
    of_others = [each.account_id for each in fleet.principals if each.account_id not in of_it]
    before = await fleet.epochs()
    async with running(fleet, [*fleet.at(master)[:2], fleet.principals[-1]], load) as holds:
        async with under_load(fleet, load):
            await until(lambda: len(load.settled) > 150, "requests are served")
            await asyncio.to_thread(master.cut_off_replicas)
            mark = len(load.settled)
            await until(lambda: len(load.settled) > mark + 100, "requests are served that the replica does not know")
            assert replica.role["master_link_status"] == "down"
            await asyncio.to_thread(master.kill)
            killed_at = clock()
            await asyncio.to_thread(cluster.wait_for_promotion, replica)
            served_meanwhile = load.admissions(killed_at, of_others)
            promoted_at = clock()
            await until(lambda: len(load.admissions(promoted_at, of_it)) == len(of_it), "the replica serves")
        assert set(served_meanwhile) == set(of_others)
        assert kinds(load) <= {"Unavailable"}
        after = await new_epochs(fleet, before, hit)
        assert await held_again(fleet, holds, after)
    await assert_exact(fleet, load)

    cluster.restart()
    await asyncio.to_thread(cluster.mend)
    assert not master.is_master
    load.refused.clear()
    async with under_load(fleet, load):
        mark = len(load.settled)
        await until(lambda: len(load.settled) > mark + 50, "requests are served")
    assert not load.refused
    assert await fleet.epochs() == after
    await assert_exact(fleet, load)


async def test_a_master_hangs_and_its_replica_takes_over(fleet):
    """Its connections stay, so that nothing breaks them but a gateway's own patience."""
    cluster, load, clock = fleet.cluster, Load(), asyncio.get_running_loop().time
    master = fleet.master_of(fleet.principals[0])
    replica, hit = cluster.replica_of(master), fleet.partitions_at(master)
    of_it = [each.account_id for each in fleet.at(master)]
    before = await fleet.epochs()
    async with running(fleet, fleet.at(master)[:1], load) as holds:
        async with under_load(fleet, load):
            await until(lambda: len(load.settled) > 100, "requests are served")
            master.freeze()
            await asyncio.to_thread(cluster.wait_for_promotion, replica)
            promoted_at = clock()
            await until(lambda: len(load.admissions(promoted_at, of_it)) == len(of_it), "the replica serves")
            await asyncio.to_thread(cluster.mend)
            mark = len(load.settled)
            await until(lambda: len(load.settled) > mark + 50, "requests are served")
        assert kinds(load) <= {"Unavailable"}
        after = await new_epochs(fleet, before, hit)
        assert await held_again(fleet, holds, after)
    await assert_exact(fleet, load)


async def test_a_failover_in_order(fleet):
    cluster, load, clock = fleet.cluster, Load(), asyncio.get_running_loop().time
    master = fleet.master_of(fleet.principals[0])
    hit, of_it = fleet.partitions_at(master), [each.account_id for each in fleet.at(master)]
    before = await fleet.epochs()
    async with running(fleet, fleet.at(master)[:1], load) as holds:
        async with under_load(fleet, load):
            await until(lambda: len(load.settled) > 100, "requests are served")
            await asyncio.to_thread(cluster.fail_over, master)
            at_s = clock()
            await until(lambda: len(load.admissions(at_s, of_it)) == len(of_it), "the new master serves")
        assert kinds(load) <= {"Unavailable"}
        after = await new_epochs(fleet, before, hit)
        assert await held_again(fleet, holds, after)
    await assert_exact(fleet, load)


async def test_a_slot_moves(fleet):
    cluster, load, clock = fleet.cluster, Load(), asyncio.get_running_loop().time
    moving = fleet.principals[0]
    number, source = fleet.keys.partition_of(moving.account_id), fleet.master_of(moving)
    target = next(node for node in cluster.nodes if node.is_master and node is not source)
    before = await fleet.epochs()
    async with running(fleet, [moving], load) as holds:
        async with under_load(fleet, load):
            await until(lambda: len(load.settled) > 100, "requests are served")
            began_at = clock()
            await asyncio.to_thread(cluster.move_slot, key_slot(fleet.keys.meta(number)), target)
            at_s = clock()
            await until(lambda: bool(load.admissions(at_s, [moving.account_id])), "the slot's new master serves")
        others = [each.account_id for each in fleet.principals if fleet.keys.partition_of(each.account_id) != number]
        assert set(load.admissions(began_at, others)) == set(others)
        assert kinds(load) <= {"Unavailable"}
        after = await new_epochs(fleet, before, {number})
        assert await held_again(fleet, holds, after)
    await assert_exact(fleet, load)
