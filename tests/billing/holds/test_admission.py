"""Admission of a request whose principal has changed meanwhile: it is repeated until the principal stays the same."""

import asyncio
from dataclasses import dataclass, field, replace

import pytest
from ulid import ULID

from billing.holds.model import Decision, Hold, HoldRequest, QuotaExceeded, Reload, Renew, Unavailable
from billing.keys.secrets import secret_digest
from billing.principals import Principal
from billing.quotas import Metric, Quota, Window
from tests.support.holds import World, ask, eventually, hold_request


@dataclass
class Renewing:
    """Makes the request anew by these principals, one after the other, and by the last of them for ever."""

    principals: list[Principal]
    queue_s: float = 0.0
    changed: bool = True
    calls: list[bool] = field(default_factory=list)

    async def __call__(self, *, stale: bool) -> HoldRequest | None:
        self.calls.append(stale)
        if not stale and not self.changed:
            return None
        self.changed = not stale and self.changed
        principal = self.principals.pop(0) if len(self.principals) > 1 else self.principals[0]
        return hold_request(str(ULID()), principal, queue_s=self.queue_s, renew=self)


async def opened(world: World, principal: Principal, renew: Renew | None, queue_s: float = 0.0) -> Decision:
    """A decision; what was held is given back."""
    id_ = str(ULID())
    async with world.engine.holds.open(hold_request(id_, principal, queue_s=queue_s, renew=renew)) as decision:
        return decision


@dataclass
class Known:
    """A key and its account, and the principal of it that a request was made from."""

    world: World
    digest: bytes
    principal: Principal

    async def changes(self, tokens: int) -> Principal:
        """The principal of now, with another quota, once Redis refuses the one before."""
        before = await self.now()
        quotas = (Quota(Window.total, Metric.tokens, tokens),)
        await self.world.accounts.set_quotas(before.account_id, quotas)

        async def is_told_to_reload() -> bool:
            decision = await ask(self.world, before)
            if isinstance(decision, Hold):
                await self.world.engine.holds.void(decision)
            return isinstance(decision, Reload)

        await eventually(is_told_to_reload)
        return await self.now()

    async def now(self) -> Principal:
        principal = await self.world.engine.cache.reload(self.digest)
        assert principal is not None
        return principal


async def known(world: World, **key: int) -> Known:
    """A new account with a balance, and a key of it."""
    account = await world.accounts.create("Test")
    await world.grants.grant(account.id, 10**9, str(ULID()), None)
    _, secret = await world.api_keys.create(account.id, "test", **key)
    digest = secret_digest(secret)
    principal = await world.engine.cache.get(digest)
    assert principal is not None
    return Known(world, digest, principal)


async def test_it_is_decided_on_by_the_principal_of_now(world):
    customer = await known(world)
    now = await customer.changes(1_000_000)
    renew = Renewing([now])
    decision = await opened(world, customer.principal, renew)
    assert isinstance(decision, Hold)
    assert decision.target.limits == now.limits_for("demo", "llm")
    assert renew.calls == [True]
    refusing = await customer.changes(1)
    assert isinstance(await opened(world, now, Renewing([refusing])), QuotaExceeded)


async def test_one_that_can_not_be_made_anew_is_not_decided(world):
    customer = await known(world)
    await customer.changes(1_000_000)
    assert isinstance(await opened(world, customer.principal, None), Unavailable)


@pytest.mark.parametrize("wait_s", [0.0, 0.2])
async def test_it_is_made_anew_at_least_twice_and_within_its_time(world, wait_s):
    customer, admissions = await known(world), world.engine.holds.admissions
    before, now = customer.principal, await customer.changes(1_000_000)
    patient, admissions.settings = admissions.settings, replace(admissions.settings, admission_wait_s=wait_s)
    renew = Renewing([before])
    assert isinstance(await opened(world, before, renew), Unavailable)
    assert 2 <= len(renew.calls) < 20
    admissions.settings = patient
    renew = Renewing([before, before, now])
    decision = await opened(world, before, renew)
    assert isinstance(decision, Hold)
    assert decision.waited_s > 0
    assert renew.calls == [True] * 3


async def test_what_making_it_anew_raises_is_raised(world):
    customer = await known(world)
    await customer.changes(1_000_000)

    async def refused(*, stale):
        raise PermissionError("the key was revoked meanwhile")

    with pytest.raises(PermissionError):
        await opened(world, customer.principal, refused)
    assert world.engine.holds.live == {}


async def test_a_request_that_has_waited_is_made_anew_where_its_key_has_changed(world):
    """It is asked first whether anything has changed, then made anew from Postgres."""
    principal = (await known(world, max_parallel_requests=1)).principal
    running = await ask(world, principal)
    assert isinstance(running, Hold)
    renew = Renewing([principal], queue_s=60.0, changed=False)
    serving = asyncio.create_task(opened(world, principal, renew, queue_s=60.0))

    async def waits():
        return len(world.engine.holds.queues) == 1

    await eventually(waits)
    renew.changed = True
    await world.engine.holds.void(running)
    assert isinstance(await serving, Hold)
    assert renew.calls.count(True) == 1
    assert renew.calls.index(True) > 0
