"""Features of plans: a table of tiers as a configuration, units counted once, and periods over month ends."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.metering.events import EventConflict
from billing.metering.features import Features, Period, month_of, period_at
from billing.times import months_later
from tests.gateway.config.support import load

TIERS = """\
free: {name: Free, price_usd: "0", users: 1, features: {debates: 10, api_access: false, all_models: false}}
starter: {name: Starter, price_usd: "99", users: 2, features: {debates: 50, api_access: false, all_models: false}}
professional: {name: Pro, price_usd: "299", users: 10, features: {debates: 200, api_access: true, all_models: true}}
enterprise: {name: Enterprise, price_usd: "999", features: {debates: true, api_access: true, all_models: true}}
"""
LEAP = datetime(2028, 1, 31, 10, tzinfo=UTC)


async def test_units_of_each_tier_are_counted_once_and_no_more(billing, tmp_path):
    plans = load(tmp_path, plans=TIERS).plans
    assert [plan.users for plan in plans.values()] == [1, 2, 10, None]
    features = Features(billing.database, plans, "free", lambda: LEAP)
    for plan, limit in (("free", 10), ("starter", 50), ("professional", 200), ("enterprise", None)):
        account = await billing.accounts.create("Acme")
        await billing.database.execute("UPDATE accounts SET plan = $2 WHERE id = $1", account.id, plan)
        first = await features.use(account.id, "debates", (limit or 1000) - 1, "event_1")
        again = await features.use(account.id, "debates", (limit or 1000) - 1, "event_1")
        assert (first.state.allowed, first.replayed, again.replayed) == (True, False, True)
        several = await asyncio.gather(*(features.use(account.id, "debates", 1, f"more_{n}") for n in range(4)))
        assert sum(use.state.allowed for use in several) == (4 if limit is None else 1)
        refused = await features.use(account.id, "unheard", 1, "event_2")
        assert (refused.state.allowed, refused.state.limit) == (False, 0)
        states = {each.feature: each for each in await features.of_account(account.id)}
        assert states["debates"].left == (None if limit is None else 0)
        assert states["api_access"].allowed == (plan in ("professional", "enterprise"))
        with pytest.raises(EventConflict):
            await features.use(account.id, "debates", 2, "event_1")


async def test_units_are_there_again_with_the_provider_s_period(billing, tmp_path):
    plans, now = load(tmp_path, plans=TIERS).plans, [LEAP]
    features = Features(billing.database, plans, "free", lambda: now[0])
    account = await billing.accounts.create("Acme")
    await billing.database.execute("UPDATE accounts SET plan = 'starter' WHERE id = $1", account.id)
    await billing.database.execute(
        "INSERT INTO subscriptions (provider, id, account_id, status, plan, period_start, period_end, created_at)"
        " VALUES ('stripe', 'sub_1', $1, 'active', 'starter', $2, $3, $2)",
        account.id,
        LEAP,
        months_later(LEAP, 1),
    )
    used_up = await features.use(account.id, "debates", 50, "e1")
    assert used_up.state.period.end == datetime(2028, 2, 29, 10, tzinfo=UTC)
    now[0] = datetime(2028, 2, 29, 9, 59, tzinfo=UTC)
    assert not (await features.use(account.id, "debates", 1, "e2")).state.allowed
    now[0] = datetime(2028, 2, 29, 10, tzinfo=UTC)  # the provider's event of the renewal comes later
    renewed = (await features.use(account.id, "debates", 1, "e2")).state
    assert (renewed.used, renewed.period.end) == (1, datetime(2028, 3, 31, 10, tzinfo=UTC))


@given(st.datetimes(datetime(2024, 1, 1), datetime(2032, 1, 1)), st.integers(0, 1500))  # noqa: DTZ001
def test_periods_have_no_gap_and_hold_their_moment(anchor, days):
    anchor = anchor.replace(tzinfo=UTC)
    now = anchor + timedelta(days=days)
    period = period_at(Period(anchor, months_later(anchor, 1)), anchor, now)
    assert period.start <= now < period.end
    assert timedelta(days=27) < period.end - period.start < timedelta(days=32)
    later = period_at(period, anchor, period.end)
    assert later.start == period.end
    assert later.end.day in (anchor.day, *range(28, 31))
    assert month_of(now).start <= now < month_of(now).end
