"""Counters that Redis is given: what Postgres says of a window, and quotas that come while requests run."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from ulid import ULID

from billing.holds import recovery
from billing.holds.epochs import Partition
from billing.holds.loading import Since, read_counters
from billing.holds.model import Hold
from billing.holds.redis.layout import Counter, KeyState
from billing.ledger.debits import Debit
from billing.ledger.sums import roll
from billing.ledger.writer import write_debits
from billing.plans import Plan
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window, window_end_s, window_id
from tests.model.scripts import PlainScript, Scripts
from tests.support.holds import (
    BRISK,
    EVERY_WINDOW,
    LONG,
    World,
    ask,
    assert_agreed,
    by_hand,
    counters_of,
    debit,
    debits,
    direct,
    entries,
    eventually,
    hold_one,
    partition_of,
    seen_from,
    settle,
    used,
    wire_of,
)

FILTERS = (("alpha", "llm"), ("al*", "llm"), (None, "image"), (None, "llm"))


async def test_postgres_knows_every_window_of_every_metric_and_filter(world):
    principal, other = await world.customer(), await world.customer()
    await world.api_keys.create(principal.account_id, "second")
    keys = [row["id"] for row in await world.database.rows("SELECT id FROM api_keys ORDER BY id")]
    mine = [key for key in keys if key != other.key_id]
    now = datetime.now(UTC)
    await world.database.execute("SELECT create_usage_months($1, 16)", (now - timedelta(days=420)).date())
    chosen = random.Random(11)  # noqa: S311
    written = []
    for _ in range(300):
        before_s = chosen.choice((0, 30, 90, 1800, 7200, 40_000, 3 * 86_400, 12 * 86_400, 40 * 86_400, 400 * 86_400))
        written.append(
            debit(
                str(ULID()),
                principal,
                key_id=chosen.choice(mine),
                admitted_at_ms=int(now.timestamp() * 1000) - chosen.randrange(before_s * 1000 + 1),
                model=chosen.choice(("alpha", "alpine", "beta")),
                feature=chosen.choice(("llm", "llm", "image")),
                outcome=chosen.choice(("settled", "settled", "expired")),
                input_tokens=chosen.randrange(3),
                output_tokens=chosen.randrange(3),
                charged_nano=chosen.choice((0, 7, 10**15)),
            )
        )
    await world.database.execute(
        "UPDATE accounts SET balance_nano = 9007199254740991 WHERE id = $1", principal.account_id
    )
    by_others = [debit(str(ULID()), other, admitted_at_ms=int(now.timestamp() * 1000)) for _ in range(3)]
    fitting = []
    balance = 9007199254740991
    for one in written:
        if balance - one.charged_nano > -9007199254740991:
            fitting.append(one)
            balance -= one.charged_nano
    assert len(await write_debits(world.database, [*fitting, *by_others])) == len(fitting) + 3
    at_s = int(now.timestamp())
    for rows in (0, 100, 500):  # fresh, in both places, rolled up
        await roll(world.database, rows, most_fresh=0)
        for model, feature in FILTERS:
            quotas = [Quota(window, metric, 1, model, feature) for window in Window for metric in Metric]
            async with world.database.transaction(snapshot=True) as connection:
                for key_ids in (None, *((key_id,) for key_id in mine), mine):
                    counters = await read_counters(connection, principal.account_id, key_ids, quotas, at_s)
                    seen = [one for one in fitting if key_ids is None or one.key_id in key_ids]
                    assert counters == tuple(
                        Counter(quota.tag, window_id(quota.window, at_s), used(quota, seen, at_s)) for quota in quotas
                    )
    assert await world.database.value("SELECT count(*) FROM usage_fresh") == 0


async def test_what_redis_counted_itself_is_left_out(world, principal):
    """Since debit 5 of epoch 3 and correction 10: by the place in Redis's order where a debit has both."""
    now_ms = partition_of(world).now_ms()
    moment = await world.database.value("SELECT clock_timestamp()")
    before = []
    after = []

    async def write(of, epoch, dseq, xseq):
        one = debit(str(ULID()), principal, admitted_at_ms=now_ms, input_tokens=2 ** len([*before, *after]))
        of.append(one)
        hyd_epoch = -1 if xseq is not None else epoch
        await world.database.execute(
            "UPDATE accounts SET hyd_epoch = $1, xseq = coalesce($2 - 1, xseq)", hyd_epoch, xseq
        )
        await write_debits(world.database, [placed(one, epoch, dseq)])

    await write(before, 3, 5, None)
    await write(before, 2, 9, None)
    await write(before, None, None, 10)
    await write(before, 3, 4, 11)  # settled by Redis before, told later
    await write(after, 3, 6, None)
    await write(after, None, None, 12)
    await write(after, 3, 7, 13)
    await write(after, 2, 3, 14)
    quotas = [Quota(Window.total, metric, 1) for metric in Metric]
    since = Since(3, 5, 10, moment)
    for rows in (0, 3, 5):  # fresh, in both places, rolled up
        await roll(world.database, rows, most_fresh=0)
        async with world.database.transaction(snapshot=True) as connection:
            counters = await read_counters(connection, principal.account_id, None, quotas, now_ms // 1000, since)
        assert [counter.taken for counter in counters] == [used(quota, before, now_ms // 1000) for quota in quotas]


def placed(one: Debit, epoch: int | None, dseq: int | None) -> Debit:
    values = {name: getattr(one, name) for name in one.__struct_fields__}
    return Debit(**{**values, "epoch": epoch, "dseq": dseq})


def while_drained(world: World, work: Callable[[], Awaitable[object]]) -> None:
    """Do this between the next adoption and the filling of its counters."""
    drained = world.engine.loader.drained

    async def drained_after(partition: Partition, account_id: str, epoch: int, dseq: int) -> None:
        world.engine.loader.drained = drained
        await work()
        await drained(partition, account_id, epoch, dseq)

    world.engine.loader.drained = drained_after


async def set_key_quotas(world: World, principal: Principal, quotas: tuple[Quota, ...]) -> None:
    await world.api_keys.update(principal.key_id, {"quotas": quotas})


@pytest.mark.parametrize("subject", ["account", "key"])
async def test_quotas_that_come_in_the_middle_of_everything_count_each_request_once(world, subject):
    """Requests settled before, in the ledger or not; corrections told and untold; 200 open holds, of which some end
    between the adoption and the filling, in every way."""
    await by_hand(world)
    principal = await world.customer(10**9)
    account_id = principal.account_id
    holds = [await hold_one(world, principal) for _ in range(200)]
    for hold in holds[:20]:
        await settle(world, principal, hold)
    await world.engine.outbox.flush()
    for hold in holds[20:40]:
        await settle(world, principal, hold)
    known = [await direct(world, principal)]
    await world.engine.corrections.sync(partition_of(world), account_id)
    known.append(await direct(world, principal))
    quotas = (
        *EVERY_WINDOW,
        Quota(Window.total, Metric.tokens, 10**12, "de*"),
        Quota(Window.day, Metric.tokens, 1, "x"),
    )

    async def meanwhile():
        for hold in holds[40:60]:
            await settle(world, principal, hold)
        for hold in holds[60:80]:
            await world.engine.holds.void(hold)
        await world.engine.corrections.sync(partition_of(world), account_id)
        known.append(await direct(world, principal))
        await write_debits(world.database, seen_from(holds[80:90], principal))  # their settlements were not answered
        await world.engine.outbox.flush()
        for hold in holds[90:100]:
            await settle(world, principal, hold)
        await world.engine.corrections.sync(partition_of(world), account_id)
        known.append(await direct(world, principal))

    while_drained(world, meanwhile)
    if subject == "key":
        await set_key_quotas(world, principal, quotas[:32])
    else:
        await world.accounts.set_quotas(account_id, quotas[:32])
    await world.engine.corrections.sync(partition_of(world), account_id)
    settled = seen_from([*holds[:60], *holds[80:100]], principal) + known
    opened = seen_from(holds[100:], principal, input_tokens=10, output_tokens=100, cost_nano=2000, charged_nano=2000)
    now_s = partition_of(world).now_ms() // 1000
    counters = await counters_of(world, principal, subject)
    for quota in quotas[:32]:
        counter = counters[quota.tag]
        assert not counter.pending
        if counter.window_id == window_id(quota.window, now_s):
            assert counter.taken == used(quota, settled + opened, now_s), quota
    for hold in holds[100:]:
        await settle(world, principal, hold)
    counters = await counters_of(world, principal, subject)
    everything = settled + seen_from(holds[100:], principal)
    for quota in quotas[:32]:
        if quota.window in (Window.month, Window.total):
            assert counters[quota.tag].taken == used(quota, everything, now_s), quota
    await assert_agreed(world, account_id)
    assert len(await debits(world)) == len(everything)


async def test_a_correction_made_before_a_quota_and_told_after_it_counts_once(world):
    await by_hand(world)
    principal = await world.customer(10**9)
    await world.engine.holds.void(await hold_one(world, principal))
    await direct(world, principal)
    while_drained(world, lambda: world.engine.corrections.sync(partition_of(world), principal.account_id))
    await world.accounts.set_quotas(principal.account_id, LONG)
    counters = await counters_of(world, principal, "account")
    assert [counters[quota.tag].taken for quota in LONG] == [1, 15, 10, 5, 500] * 2


async def test_a_settlement_without_an_answer_before_a_quota_counts_once(make_world, monkeypatch):
    """Redis has settled it before the quota came; its debit is a correction that is told after."""
    world = await make_world(BRISK)
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", -60_000)
    await by_hand(world)
    principal = await world.customer(10**9)
    hold = await hold_one(world, principal)

    async def unconfirmed():
        return len(world.engine.direct_writer) > 0

    sync, world.engine.corrections.sync = world.engine.corrections.sync, _nothing
    wire = wire_of(world)
    wire._transport.pause_reading()
    settling = asyncio.create_task(settle(world, principal, hold))
    await eventually(unconfirmed)
    assert await world.engine.holds.drain(60.0)  # no loop runs that would write it
    assert (await settling).available_nano is None
    wire._transport.resume_reading()
    world.engine.corrections.sync = sync
    assert list(await entries(world, principal.account_id)) == [hold.id]
    while_drained(world, lambda: world.engine.recovery.sweep(partition_of(world)))
    await world.accounts.set_quotas(principal.account_id, LONG)
    assert await world.journal(principal.account_id) == {}
    counters = await counters_of(world, principal, "account")
    assert [counters[quota.tag].taken for quota in LONG] == [1, 15, 10, 5, 500] * 2
    await assert_agreed(world, principal.account_id)


async def _nothing(partition: Partition, account_id: str) -> bool:
    return True


async def test_counters_whose_filling_failed_are_filled_by_a_later_request(world, principal):
    await settle(world, principal, await hold_one(world, principal))

    async def fail():
        raise TimeoutError

    while_drained(world, fail)
    await world.accounts.set_quotas(principal.account_id, LONG)
    assert all(counter.pending for counter in (await counters_of(world, principal, "account")).values())
    row = await world.database.row("SELECT secret_sha256 FROM api_keys")
    newer = await world.engine.cache.reload(row["secret_sha256"])
    assert newer is not None

    async def is_admitted():
        return isinstance(await ask(world, newer), Hold)

    await eventually(is_admitted)
    counters = await counters_of(world, principal, "account")
    assert [counters[quota.tag].taken for quota in LONG] == [2, 125, 20, 105, 2500] * 2


async def test_a_key_that_is_loaded_late_is_loaded_at_its_accounts_time(world):
    """Redis's clock went back by half an hour since: the account's time did not."""
    principal = await world.customer(10**9, key_quotas=LONG)
    await settle(world, principal, await hold_one(world, principal))
    await world.engine.outbox.flush()
    state = await world.account_state(principal.account_id)
    await world.api_keys.create(principal.account_id, "second", quotas=EVERY_WINDOW)
    row = await world.database.row("SELECT id FROM api_keys WHERE name = 'second'")
    assert row is not None
    await by_hand(world)
    partition_of(world).clock_offset_ms -= 1_800_000
    await world.engine.loader.install(partition_of(world), principal.account_id, row["id"])
    raw = await world.link.command("GET", world.keys.key(principal.account_id, row["id"]))
    counters = {counter.tag: counter.window_id for counter in KeyState.unpack(raw).counters}
    assert counters == {quota.tag: window_id(quota.window, state.now_s) for quota in EVERY_WINDOW}


async def test_a_change_that_comes_while_an_older_one_is_told_is_told_too(world, principal):
    await hold_one(world, principal)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait():
        begun.set()
        await go_on.wait()

    while_drained(world, wait)
    first = asyncio.create_task(world.accounts.set_quotas(principal.account_id, LONG[:1]))
    await begun.wait()
    second = asyncio.create_task(world.accounts.set_quotas(principal.account_id, LONG))

    async def is_written():
        return bool(await world.database.value("SELECT version FROM accounts") == 3)

    await eventually(is_written)
    go_on.set()
    await asyncio.gather(first, second)

    async def is_told():
        return len(await counters_of(world, principal, "account")) == len(LONG)

    await eventually(is_told)


async def test_gateways_with_different_plans_do_not_undo_one_anothers_counters(make_world):
    """While a release rolls out: each adopts what it lacks once, and requests go through at both."""
    old = {"free": Plan("free", "Free", 0, (Quota(Window.day, Metric.tokens, 10**9),))}
    new = {"free": Plan("free", "Free", 0, (Quota(Window.day, Metric.requests, 10**6),))}
    worlds = [await make_world(plans=old), await make_world(plans=new)]
    principal = await worlds[0].customer(10**9)
    row = await worlds[0].database.row("SELECT secret_sha256 FROM api_keys")
    assert row is not None
    at = [await world.engine.cache.reload(row["secret_sha256"]) for world in worlds]
    adopted = [0]
    for world in worlds:
        adopt = world.engine.loader.adopt_account

        async def noted(partition, account_id, adopt=adopt):
            adopted[0] += 1
            return await adopt(partition, account_id)

        world.engine.loader.adopt_account = noted
    for _ in range(25):
        for world, known in zip(worlds, at, strict=True):
            assert known is not None
            await settle(world, known, await hold_one(world, known))
    assert adopted[0] <= 6
    for world in worlds:
        await world.engine.outbox.flush()
    used_of = {counter.tag: counter.taken for counter in (await worlds[0].account_state(principal.account_id)).counters}
    assert used_of[new["free"].quotas[0].tag] >= 25
    assert used_of[old["free"].quotas[0].tag] >= 25 * 15


# The end of 2105; a window id of seconds' minutes still fits 32 bits by far.
LAST_S = 4_291_747_199
WINDOWS_AT = PlainScript(
    "windows_at",
    f"""
    local ids = {{}}
    for i, second in ipairs(ARGV) do
      local at = windows_at(tonumber(second))
      ids[i] = {{{", ".join(f"at[{window.value}]" for window in Window)}}}
    end
    return ids
    """,
    with_state=True,
)


@pytest.fixture
def scripts(redis_url: str, key_prefix: str) -> Iterator[Scripts]:
    made = Scripts(redis_url, key_prefix, {"key_1": "acc_one"})
    yield made
    made.close()


def assert_same(scripts: Scripts, seconds: list[int]) -> None:
    for start in range(0, len(seconds), 1000):
        part = seconds[start : start + 1000]
        for second, ids in zip(part, scripts.run(WINDOWS_AT, [b"none"], part), strict=True):
            assert ids == [window_id(window, second) for window in Window], second


def test_random_seconds(scripts):
    chosen = random.Random(20260301)  # noqa: S311
    assert_same(scripts, [chosen.randrange(LAST_S) for _ in range(20_000)])


def test_both_sides_of_every_month(scripts):
    seconds, at = [], 0
    while at < LAST_S:
        seconds += [at, at + 1]
        end = window_end_s(Window.month, at)
        assert end is not None
        seconds.append(end - 1)
        at = end
    assert len(seconds) == 136 * 12 * 3
    assert_same(scripts, seconds)


def test_both_sides_of_days_and_weeks_of_leap_years(scripts):
    starts = [951_609_600, 1_709_078_400, 4_107_369_600]  # before 29 February 2000 and 2024, and 1 March 2100
    assert_same(scripts, [start + day * 86_400 + by for start in starts for day in range(10) for by in (-1, 0, 1)])
