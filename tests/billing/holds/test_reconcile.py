"""Reconciling on the real stores: quiet when all is well, exact about what is not, and mended by a new epoch."""

import asyncio
import random
from dataclasses import replace

import pytest
from ulid import ULID

from billing.holds import reconcile
from billing.holds.model import Hold
from billing.holds.reconcile import Drift
from billing.holds.redis.layout import Counter, Keyspace
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import World, debit, hold_request

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)


async def spend(world: World, principal: Principal) -> None:
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        await world.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))


async def test_all_is_well_with_holds_open_and_debits_waiting(world):
    principal = await world.customer(10**9, quotas=(DAY_TOKENS,), key_quotas=(DAY_TOKENS,))
    await spend(world, principal)
    await world.grants.grant(principal.account_id, 5, "grant", None)
    request_id = str(ULID())
    async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
        assert isinstance(hold, Hold)
        report = await world.engine.reconciler.run()
    assert (report.accounts, report.busy, report.drifts) == (1, 0, ())


async def test_every_difference_is_named_and_mended_by_a_new_epoch(world):
    principal = await world.customer(10**9, quotas=(DAY_TOKENS,))
    await spend(world, principal)
    account = principal.account_id
    state = await world.account_state(account)
    (counter,) = state.counters
    wrong = replace(
        state,
        balance_nano=state.balance_nano + 1,
        held_nano=7,
        dseq=state.dseq + 1,
        counters=(Counter(counter.tag, counter.window_id, counter.used - 3, held=4),),
    )
    await world.link.command("SET", world.keys.account(account), wrong.pack())
    report = await world.engine.reconciler.run()
    assert set(report.drifts) == {
        Drift(account, "balance", 10**9 - 499, 10**9 - 500),
        Drift(account, "debits", 2, 1),
        Drift(account, "held", 7, 0),
        Drift(account, "account day:tokens", 12, 15),
        Drift(account, "account day:tokens held", 4, 0),
    }
    await world.engine.reconciler.fix()
    await spend(world, principal)
    report = await world.engine.reconciler.run()
    assert (report.accounts, report.drifts) == (1, ())
    assert (await world.account_state(account)).balance_nano == 10**9 - 1000


async def shift(world: World, principal: Principal, *, balance: int = 0, day_tokens: int = 0) -> None:
    """Make Redis wrong about an account's balance, or about the first window of its key."""
    state, key = await world.account_state(principal.account_id), await world.key_state(principal)
    wrong = replace(state, balance_nano=state.balance_nano + balance)
    await world.link.command("SET", world.keys.account(principal.account_id), wrong.pack())
    changed = tuple(replace(each, used=each.used + day_tokens) for each in key.counters[:1])
    wrong_key = replace(key, counters=changed + key.counters[1:])
    await world.link.command("SET", world.keys.key(principal.account_id, principal.key_id), wrong_key.pack())


@pytest.fixture(params=[1, 3])
def keyspace(request: pytest.FixtureRequest, key_prefix: str) -> Keyspace:
    """With one partition, and with a few."""
    return Keyspace(key_prefix, request.param)


async def test_few_of_many_accounts_drift_and_are_mended(world, monkeypatch):
    monkeypatch.setattr(reconcile, "PAGE", 7)
    monkeypatch.setattr(reconcile, "BATCH_SUBJECTS", 9)
    principals = [
        await world.customer(10**9, quotas=(DAY_TOKENS,), key_quotas=(DAY_TOKENS,) if number % 3 else ())
        for number in range(30)
    ]
    for principal in principals:
        await spend(world, principal)
    assert (await world.engine.reconciler.run()) == reconcile.Report(30, 0, ())
    rich, busy = principals[4], principals[20]
    await shift(world, rich, balance=7)
    await shift(world, busy, day_tokens=-2)
    report = await world.engine.reconciler.run()
    assert (report.accounts, report.busy) == (30, 0)
    assert set(report.drifts) == {
        Drift(rich.account_id, "balance", 10**9 - 493, 10**9 - 500),
        Drift(busy.account_id, f"{busy.key_id} day:tokens", 13, 15),
    }
    await world.engine.reconciler.fix()
    for principal in principals:
        await spend(world, principal)
    assert (await world.engine.reconciler.run()) == reconcile.Report(30, 0, ())


async def test_a_difference_that_vanishes_is_none(world, monkeypatch):
    principals = [await world.customer(10**9, key_quotas=(DAY_TOKENS,)) for _ in range(3)]
    for principal in principals:
        await spend(world, principal)
    first, second, _ = principals
    await shift(world, first, balance=5)
    await shift(world, second, balance=5)
    suspected = {}
    reconciler = world.engine.reconciler
    real = reconciler._compare

    async def then_mend(partition, account_ids, *, thorough):
        found = await real(partition, account_ids, thorough=thorough)
        if not thorough:
            suspected.update({each: {drift.what for drift in drifts} for each, drifts in found.drifts.items()})
            for principal, day_tokens in ((first, 0), (second, 1)):
                if principal.account_id in found.drifts:
                    await shift(world, principal, balance=-5, day_tokens=day_tokens)
        return found

    monkeypatch.setattr(reconciler, "_compare", then_mend)
    report = await world.engine.reconciler.run()
    assert suspected == {first.account_id: {"balance"}, second.account_id: {"balance"}}
    assert report.drifts == (), "what the second look finds and the first did not waits for its own second look"
    monkeypatch.undo()
    report = await world.engine.reconciler.run()
    assert report.drifts == (Drift(second.account_id, f"{second.key_id} day:tokens", 16, 15),)


async def test_traffic_meanwhile_is_no_difference(world, monkeypatch):
    monkeypatch.setattr(reconcile, "BATCH_SUBJECTS", 12)
    minute_cost = Quota(Window.minute, Metric.cost, 10**12)
    principals = [
        await world.customer(10**9, quotas=(DAY_TOKENS,), key_quotas=(DAY_TOKENS, minute_cost)) for _ in range(15)
    ]
    for principal in principals:
        await spend(world, principal)
    chosen, done = random.Random(5), asyncio.Event()  # noqa: S311

    async def work():
        requests = 0
        while not done.is_set():
            principal, requests = chosen.choice(principals), requests + 1
            request_id = str(ULID())
            async with world.engine.holds.open(hold_request(request_id, principal)) as hold:
                assert isinstance(hold, Hold)
                await asyncio.sleep(chosen.random() / 50)
                if chosen.random() < 0.8:  # else it is given back
                    spent = debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms)
                    await world.engine.holds.settle(hold, spent)
            if chosen.random() < 0.1:
                await world.grants.grant(principal.account_id, 3, str(ULID()), None)
        return requests

    workers = [asyncio.create_task(work()) for _ in range(6)]
    reports = []
    try:
        for _ in range(8):
            reports.append(await world.engine.reconciler.run())
    finally:
        done.set()
        requests = sum(await asyncio.gather(*workers))
    assert requests > len(reports)
    assert [(report.accounts, report.drifts) for report in reports] == [(15, ())] * 8
    assert (await world.engine.reconciler.run()) == reconcile.Report(15, 0, ())


async def test_redis_is_told_of_corrections_that_it_has_forgotten(world, principal):
    await spend(world, principal)
    older = await world.account_state(principal.account_id)
    await world.grants.grant(principal.account_id, 5, "grant", None)
    assert (await world.engine.reconciler.run()).drifts == ()
    newer = await world.account_state(principal.account_id)
    assert (newer.xseq, newer.balance_nano) == (older.xseq + 1, older.balance_nano + 5)
    await world.link.command("SET", world.keys.account(principal.account_id), older.pack())
    assert (await world.engine.reconciler.run()).drifts == ()
    told = await world.account_state(principal.account_id)
    assert (told.xseq, told.balance_nano) == (newer.xseq, newer.balance_nano)
