"""A quick look at both stores: what it suspects, without the thorough look that comes after it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from billing.holds import reconcile
from billing.holds.reconcile import RedisSnapshots
from billing.holds.redis.layout import AccountState
from billing.ledger.sums import roll
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window, window_id
from tests.support.holds import (
    World,
    eventually,
    hold_one,
    joined,
    partition_of,
    settle,
    spend,
)

EVERY_WINDOW = tuple(Quota(window, metric, 10**12) for window in Window for metric in Metric)
FILTERED = tuple(
    Quota(window, Metric.tokens, 10**12, model, feature)
    for window in (Window.hour, Window.total)
    for model, feature in (("alpha", "llm"), ("al*", "llm"), (None, "image"))
)
MODELS = ("alpha", "almost", "beta")


async def suspects(world: World, *principals: Principal) -> dict[str, set[str]]:
    """What a quick look at these accounts suspects; none of them is busy."""
    ids = [each.account_id for each in principals]
    found = await world.engine.reconciler._compare(partition_of(world), ids, thorough=False)
    assert not found.busy
    return {account_id: {drift.what for drift in drifts} for account_id, drifts in found.drifts.items()}


async def put(world: World, account_id: str, state: AccountState) -> None:
    await world.link.command("SET", world.keys.account(account_id), state.pack())


async def test_every_counter_is_compared(world):
    """With debits in both stores, debits in the journal alone, and holds open."""
    principal = await world.customer(quotas=(*EVERY_WINDOW[:20], *FILTERED), key_quotas=EVERY_WINDOW)
    other = await world.customer(quotas=FILTERED)
    for model in MODELS:
        await spend(world, principal, model=model)
        await spend(world, other, model=model)
    await world.engine.outbox.flush()
    for model in MODELS:
        await spend(world, principal, model=model)
        await hold_one(world, principal, model=model)
    for rows in (0, 3):  # fresh, in both places
        await roll(world.database, rows, most_fresh=0)
        assert await suspects(world, principal, other) == {}

    state, key = await world.account_state(principal.account_id), await world.key_state(principal)
    quotas = {quota.tag: quota for quota in (*EVERY_WINDOW, *FILTERED)}
    for place, counter in enumerate(state.counters):
        wrong = (*state.counters[:place], replace(counter, used=counter.used + 1), *state.counters[place + 1 :])
        await put(world, principal.account_id, replace(state, counters=wrong))
        quota = quotas[counter.tag]
        current = counter.window_id == window_id(quota.window, state.now_s)
        names = {f"account {quota.window.name}:{quota.metric.name}"}
        assert await suspects(world, principal, other) == ({principal.account_id: names} if current else {})
        wrong = (*state.counters[:place], replace(counter, held=counter.held - 1), *state.counters[place + 1 :])
        await put(world, principal.account_id, replace(state, counters=wrong))
        names = {f"account {quota.window.name}:{quota.metric.name} held"}
        assert await suspects(world, principal, other) == ({principal.account_id: names} if current else {})
    await put(world, principal.account_id, state)
    wrong = tuple(replace(counter, used=counter.used - 1) for counter in key.counters)
    key_name = world.keys.key(principal.account_id, principal.key_id)
    await world.link.command("SET", key_name, replace(key, counters=wrong).pack())
    names = {f"{principal.key_id} {quota.window.name}:{quota.metric.name}" for quota in EVERY_WINDOW}
    assert await suspects(world, principal, other) == {principal.account_id: names}


@pytest.mark.parametrize(
    ("field", "what"), [("balance_nano", "balance"), ("dseq", "debits"), ("held_nano", "held"), ("running", "running")]
)
async def test_every_sum_is_compared(world, principal, field, what):
    await spend(world, principal)
    await hold_one(world, principal)
    state = await world.account_state(principal.account_id)
    await put(world, principal.account_id, replace(state, **{field: getattr(state, field) + 1}))
    assert await suspects(world, principal) == {principal.account_id: {what}}


async def test_what_comes_between_the_two_stores_is_told_apart(world, monkeypatch):
    """Debits, a grant and a debit by a direct ledger write reach Postgres after Redis was looked at."""
    principal = await world.customer(quotas=(*EVERY_WINDOW[:20], *FILTERED), key_quotas=EVERY_WINDOW)
    await spend(world, principal, model="alpha")
    running = await hold_one(world, principal, model="almost")
    lost = await hold_one(world, principal, model="beta")
    real, before = RedisSnapshots.drained, []

    async def meanwhile(self, partition, seen):
        before.append(seen[principal.account_id].state)
        for model in MODELS:
            await spend(world, principal, model=model)
        await settle(world, principal, running, model="almost")
        lost.epoch -= 1  # so that it is settled in Postgres
        await settle(world, principal, lost, model="beta")
        await world.grants.grant(principal.account_id, 11, "grant", None)
        await world.engine.outbox.flush()
        return await real(self, partition, seen)

    monkeypatch.setattr(RedisSnapshots, "drained", meanwhile)
    assert await suspects(world, principal) == {}
    monkeypatch.undo()
    after = await world.account_state(principal.account_id)
    assert (after.dseq, before[0].dseq) == (5, 1)
    assert await suspects(world, principal) == {}


async def test_debits_that_were_counted_once_are_remembered(world, monkeypatch):
    monkeypatch.setattr(reconcile, "REMEMBERED_FROM", 2)
    monkeypatch.setattr(reconcile, "DEBITS_A_QUERY", 2)
    principal, few = await world.customer(), await world.customer()
    for _ in range(3):
        await spend(world, principal)
    await spend(world, few)
    assert await suspects(world, principal, few) == {}
    counted = world.engine.reconciler._ledger._counted
    assert {account_id: each.dseq for account_id, each in counted.items()} == {principal.account_id: 3}
    for _ in range(2):
        await spend(world, principal)
    assert await suspects(world, principal, few) == {}
    assert counted[principal.account_id].dseq == 5
    state = await world.account_state(principal.account_id)
    await put(world, principal.account_id, replace(state, dseq=6))
    assert await suspects(world, principal, few) == {principal.account_id: {"debits"}}
    await put(world, principal.account_id, replace(state, dseq=4))
    found = await suspects(world, principal, few)
    assert found == {principal.account_id: {"balance"}}, "the fifth debit counts as one that Redis has yet to count"
    await world.engine.reconciler.fix()
    await eventually(lambda: joined(world))
    await spend(world, principal)
    assert await suspects(world, principal) == {}, "another epoch counts from one"


async def test_a_request_beyond_the_longest_costs_a_second_look_and_no_more(world, monkeypatch):
    monkeypatch.setattr(reconcile, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(reconcile, "LONGEST_REQUEST", timedelta(0))
    principal = await world.customer()
    hold = await hold_one(world, principal)
    monkeypatch.setattr(reconcile, "LONGEST_REQUEST", timedelta(minutes=15))
    await spend(world, principal)
    assert await suspects(world, principal) == {}
    await settle(world, principal, hold)
    monkeypatch.setattr(reconcile, "LONGEST_REQUEST", timedelta(0))
    assert await suspects(world, principal) == {principal.account_id: {"debits"}}
    report = await world.engine.reconciler.run()
    assert (report.accounts, report.drifts) == (1, ())


async def test_an_account_that_redis_has_not_is_not_compared(world, principal):
    assert await suspects(world, principal) == {}
