"""A large journal holds Redis up nowhere: what one command or call looks at is bounded, whatever the journal has."""

import struct
from collections.abc import Awaitable, Callable, Collection

import pytest
from ulid import ULID

from billing.holds import recovery
from billing.holds.engine import EngineSettings
from billing.holds.model import HoldSettings
from billing.holds.redis.client import Server
from billing.holds.redis.layout import SETTLED, VERSION, pack_text
from billing.holds.redis.state import RedisState
from billing.ledger.debits import encode_debit
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import (
    EVERY_WINDOW,
    LONG,
    WAIT_S,
    World,
    assert_agreed,
    by_hand,
    counters_of,
    debit,
    direct,
    eventually,
    hold_one,
    partition_of,
    seen_from,
    settle,
    used,
)

ENTRIES = 30_000
RUNNING = 30
# Commands that look at all that a key has.
WHOLE = ("hgetall", "hkeys", "hvals", "smembers", "keys", "sort", "lrange")
# A page asks for 500 entries; a bucket of the hash is never cut in two, and two tables are read while it grows.
MOST_OF_A_PAGE = 2_000
ADDED = Quota(Window.total, Metric.tokens, 10**12)


async def fill_journal(world: World, principal: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With settled debits of another account, too young to be swept."""
    monkeypatch.setattr(recovery, "SETTLED_AGE_MS", 3_600_000)
    epoch, now_ms = partition_of(world).epoch or 0, partition_of(world).now_ms()
    head = struct.pack("<BBIqq", VERSION, SETTLED, epoch, now_ms, 1) + pack_text("acc_other")
    entry = head + encode_debit(debit(str(ULID()), principal))
    for start in range(0, ENTRIES, 5000):
        rows = [part for number in range(start, start + 5000) for part in (f"{number:026d}".encode(), entry)]
        await world.link.command("HSET", world.keys.journal(0), *rows)


async def calls_of(world: World) -> dict[str, int]:
    stats = await world.link.info("commandstats")  # cmdstat_keys: calls=1,usec=...
    told = {name: str(stats.get(f"cmdstat_{name}", "calls=0,")) for name in WHOLE}
    return {name: int(fields.partition(",")[0].removeprefix("calls=")) for name, fields in told.items()}


@pytest.mark.slow
async def test_nothing_looks_at_a_whole_journal_at_once(make_world, monkeypatch):
    world = await make_world(EngineSettings(holds=HoldSettings(admission_wait_s=WAIT_S)))
    await by_hand(world)
    principal = await world.customer(10**9)
    holds = [await hold_one(world, principal) for _ in range(RUNNING)]
    await fill_journal(world, principal, monkeypatch)
    pages = []
    named = []
    command, call = Server.command, world.link.call

    async def noted_command(server, *words):
        found = await command(server, *words)
        if words[0] == "HSCAN":
            pages.append(len(found[1]) // 2)
        elif words[0] in ("HMGET", "MGET", "HDEL"):
            pages.append(len(words) - 1)
        return found

    async def noted_call(script, keys, arguments):
        at = {"adopt": 5}.get(script.name)
        named.append((script.name, len(arguments[at]) // 26 if at is not None else len(arguments)))
        return await call(script, keys, arguments)

    monkeypatch.setattr(Server, "command", noted_command)
    monkeypatch.setattr(world.link, "call", noted_call)
    before = await calls_of(world)
    await world.accounts.set_quotas(principal.account_id, (ADDED,))

    async def is_counted():  # a busy Redis may not have answered in time: told again, as by the relay
        counter = (await counters_of(world, principal, "account")).get(ADDED.tag)
        if counter is None or counter.pending:
            await world.engine.change_notifier.account_changed(principal.account_id)
            return False
        return True

    await eventually(is_counted)
    assert (await counters_of(world, principal, "account"))[ADDED.tag].held == RUNNING * 110
    await world.engine.recovery.sweep(partition_of(world))
    assert (await world.engine.reconciler.run()).drifts == ()
    for hold in holds:
        await settle(world, principal, hold)
    await world.engine.outbox.flush()
    assert await calls_of(world) == before
    assert sum(pages) > 3 * ENTRIES, "the journal was read, page by page"
    assert max(pages) <= MOST_OF_A_PAGE
    assert max(number for _, number in named) <= 500
    assert ("adopt", RUNNING) in named, "the account's open holds alone"
    await world.link.command("DEL", world.keys.journal(0))


def before_counting(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[object]]) -> None:
    """Do this once, when the open holds have been looked for and are not yet counted."""
    look = RedisState.open_holds

    async def looked(self: RedisState, number: int, account_id: str, key_ids: Collection[str] | None) -> list[str]:
        found = await look(self, number, account_id, key_ids)
        monkeypatch.setattr(RedisState, "open_holds", look)
        await work()
        return found

    monkeypatch.setattr(RedisState, "open_holds", looked)


@pytest.mark.parametrize("subject", ["account", "key"])
async def test_holds_that_end_while_open_ones_are_looked_for_count_once(world, monkeypatch, subject):
    await by_hand(world)
    principal = await world.customer(10**9)
    holds = [await hold_one(world, principal) for _ in range(40)]
    known = [await direct(world, principal)]
    quotas = EVERY_WINDOW[:32]

    async def meanwhile():
        for hold in holds[:10]:
            await settle(world, principal, hold)
        for hold in holds[10:15]:
            await world.engine.holds.void(hold)
        known.append(await direct(world, principal))
        await world.engine.corrections.sync(partition_of(world), principal.account_id)

    before_counting(monkeypatch, meanwhile)
    if subject == "key":
        await world.api_keys.update(principal.key_id, {"quotas": quotas})
    else:
        await world.accounts.set_quotas(principal.account_id, quotas)
    for hold in holds[15:]:
        await settle(world, principal, hold)
    counters = await counters_of(world, principal, subject)
    now_s = partition_of(world).now_ms() // 1000
    everything = [*seen_from([*holds[:10], *holds[15:]], principal), *known]
    for quota in quotas:
        assert not counters[quota.tag].pending
        if quota in LONG:
            assert counters[quota.tag].taken == used(quota, everything, now_s), quota
    await assert_agreed(world, principal.account_id)


async def test_a_hold_that_cannot_be_found_keeps_no_account_waiting(world):
    """One that Redis counts as running and has no entry of: the counters are usable all the same."""
    await by_hand(world)
    principal = await world.customer(10**9)
    hold, other = await hold_one(world, principal), await hold_one(world, principal)
    await world.link.command("HDEL", world.keys.journal(0), hold.id)
    await world.accounts.set_quotas(principal.account_id, (ADDED,))
    counter = (await counters_of(world, principal, "account"))[ADDED.tag]
    assert (counter.pending, counter.taken) == (False, other.need.input_tokens + other.output_tokens)
