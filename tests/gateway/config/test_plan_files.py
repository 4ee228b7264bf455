"""Gateways with different plan files, as while a release rolls out: one file is in force for all of them."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from billing.pending import Pending
from billing.plans import Plan
from billing.quotas import Metric, Quota, Window
from gateway.config import plan_follower
from gateway.config.defaults import Defaults
from gateway.config.plan_follower import PlanFollower, plans_finding
from gateway.config.settings import Settings
from gateway.runtime.runtime import Runtime
from gateway.runtime.wiring import open_runtime
from tests.support.shipped import shipped_settings

OLD = Plan("free", "Free", 0, quotas=(Quota(Window.day, Metric.requests, 100),))
NEW = Plan("free", "Free", 0, quotas=(Quota(Window.day, Metric.tokens, 5000),))

MakeRuntime = Callable[..., Awaitable[Runtime]]


def settings_with(plan: Plan, version: int = 0) -> Settings:
    defaults = Defaults().having(redis_partitions=1)
    return replace(shipped_settings("x" * 32), plans={plan.id: plan}, plans_version=version, defaults=defaults)


@pytest.fixture
async def make_runtime(database_url: str, redis_url: str, key_prefix: str) -> AsyncIterator[MakeRuntime]:
    async with AsyncExitStack() as stack:

        async def make(plan: Plan, version: int = 0) -> Runtime:
            return await stack.enter_async_context(
                open_runtime(
                    settings_with(plan, version),
                    database_url=database_url,
                    redis_url=redis_url,
                    embedded=False,
                    key_prefix=key_prefix,
                )
            )

        yield make


async def begun(runtime: Runtime) -> PlanFollower:
    await runtime.follower.begin()
    return runtime.follower


async def test_a_gateway_that_starts_again_with_the_older_file_follows_the_newer(make_runtime, caplog):
    older = await make_runtime(OLD)
    assert (await begun(older)).revision == 1
    newer = await make_runtime(NEW)
    assert (await begun(newer)).revision == 2
    with caplog.at_level(logging.INFO, "gateway.config.plan_follower"):
        caplog.clear()
        await make_runtime(NEW)
        assert [each.getMessage() for each in caplog.records] == [
            "revision 2 of the plans is in force, from plans.yaml"
        ]
    account = await newer.accounts.create("Acme")
    again = await make_runtime(OLD)
    assert (await begun(again)).revision == 2
    assert dict(again.follower.plans) == dict(newer.follower.plans) == {"free": NEW}
    assert "revision 2 of the plans is in force" in caplog.text
    assert "`version: 1`" in caplog.text
    assert (await again.accounts.get(account.id)).version == account.version
    (finding,) = await plans_finding(again.database, again.settings)
    assert finding[0] == "warn"
    assert "revision 2 is in force, this plans.yaml is 1" in finding[1]
    (finding,) = await plans_finding(newer.database, newer.settings)
    assert finding[0] == "ok"


async def test_a_running_gateway_takes_on_a_newer_file(make_runtime):
    older = await make_runtime(OLD)
    follower = await begun(older)
    newer = await make_runtime(NEW, 3)
    await begun(newer)
    pending = Pending(older.database)
    await pending.refresh()
    assert pending.plans.is_set()
    await follower.work(pending).round()
    assert follower.revision == 2
    assert dict(older.follower.plans) == {"free": NEW}
    assert older.engine.loader.account_quotas("free", []) == NEW.quotas


async def test_a_principal_is_never_read_with_plans_older_than_its_account(make_runtime):
    """Or its requests would be missing from the windows of the newer plans."""
    older = await make_runtime(OLD)
    await begun(older)
    account = await older.accounts.create("Acme")
    key, _ = await older.api_keys.create(account.id, "laptop")
    before = await older.principals.by_key_id(key.id)
    newer = await make_runtime(NEW)
    await begun(newer)
    after = await older.principals.by_key_id(key.id)
    assert (before.plan, after.plan) == (OLD, NEW)
    assert after.account_version == before.account_version + 1


async def test_plans_without_the_default_one_are_not_followed(make_runtime):
    older = await make_runtime(OLD)
    await begun(older)
    other = await make_runtime(replace(NEW, id="other"))
    await plan_follower.sync_plans(other.database, {"other": replace(NEW, id="other")}, "other")
    follower = await begun(older)
    assert follower.revision == 2
    assert dict(older.follower.plans) == {"free": OLD}
