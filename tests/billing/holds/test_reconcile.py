"""Reconciling on the real stores: quiet when all is well, exact about what is not, and mended by a new epoch."""

from dataclasses import replace

from ulid import ULID

from billing.holds.codec import Counter
from billing.holds.hold import Hold
from billing.holds.reconcile import Drift
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.billing.holds.conftest import World, debit, need

DAY_TOKENS = Quota(Window.day, Metric.tokens, 10**6)


async def spend(world: World, principal: Principal) -> None:
    request_id = str(ULID())
    async with world.engine.holds.open(
        request_id, principal, "demo", "llm", need(), debit(request_id, principal)
    ) as hold:
        assert isinstance(hold, Hold)
        await world.engine.holds.settle(hold, debit(request_id, principal, admitted_at_ms=hold.admitted_at_ms))


async def test_all_is_well_with_holds_open_and_debits_waiting(world: World) -> None:
    principal = await world.customer(10**9, quotas=(DAY_TOKENS,), key_quotas=(DAY_TOKENS,))
    await spend(world, principal)
    await world.grants.grant(principal.account_id, 5, "grant", None)
    request_id = str(ULID())
    async with world.engine.holds.open(
        request_id, principal, "demo", "llm", need(), debit(request_id, principal)
    ) as hold:
        assert isinstance(hold, Hold)
        report = await world.engine.reconciler.run()
    assert (report.accounts, report.busy, report.drifts) == (1, 0, ())


async def test_every_difference_is_named_and_mended_by_a_new_epoch(world: World) -> None:
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
        counters=(Counter(counter.tag, counter.window_id, counter.used - 3),),
    )
    await world.link.command("SET", world.keys.account(account), wrong.pack())
    report = await world.engine.reconciler.run()
    assert set(report.drifts) == {
        Drift(account, "balance", 10**9 - 499, 10**9 - 500),
        Drift(account, "debits", 2, 1),
        Drift(account, "held", 7, 0),
        Drift(account, "account day:tokens", 12, 15),
    }
    await world.engine.reconciler.fix()
    await spend(world, principal)
    report = await world.engine.reconciler.run()
    assert (report.accounts, report.drifts) == (1, ())
    assert (await world.account_state(account)).balance_nano == 10**9 - 1000
