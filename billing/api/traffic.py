"""What operators watch: traffic of all accounts over time, how providers answer, who runs out of credit, and the health
of the gateway. The console's first page shows what these return."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import structs

from billing import audit
from billing.api.operations import OversightOperations
from billing.api.requests import BadRequest, NotFound, Unavailable, moment
from billing.api.route import Call, serves
from billing.errors import StoreError
from billing.ledger.reports import NOTHING, Work
from billing.schemas.base import Listing
from billing.schemas.system import GatewayHealthShape, NewProviderTest, ProviderShape, ProviderTestShape
from billing.schemas.traffic import (
    WITHIN,
    CircuitChangeShape,
    DryAccountShape,
    ProvidersQuery,
    ProviderTrafficShape,
    TrafficQuery,
    TrafficShape,
    TrafficStepShape,
    TrafficSumShape,
    steps_of,
)
from billing.times import rfc3339
from billing.traffic.counts import ProviderTraffic, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from billing.api.services import Services

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Steps of one answer.
MOST_STEPS: Final = 1_000
USUAL_DAYS: Final = 30
# An account runs dry where its credit lasts no longer, at what it spent in the week before.
DRY_DAYS: Final = 3
MEAN_OF: Final = timedelta(days=7)
MOST_DRY: Final = 50


@serves(OversightOperations.traffic)
async def get_traffic(call: Call, query: TrafficQuery) -> TrafficShape:
    """Return what all accounts were charged, what that cost, and how many requests were refused or failed, by hour or
    by day of UTC. Times are taken to the whole hours or days that hold them."""
    now, unit = datetime.fromtimestamp(call.services.clock(), UTC), HOUR if query.step == "hour" else DAY
    until = _end(moment("until", query.until) or now, unit)
    usual = until - (24 * HOUR if unit is HOUR else USUAL_DAYS * DAY)
    since = _begin(moment("since", query.since) or usual, unit)
    if since > until:
        raise BadRequest("since must not be after until.", "since")
    if (until - since) // unit > MOST_STEPS:
        raise BadRequest(f"These are more than {MOST_STEPS} steps: ask for days, or for less time.", "since")
    return await read_traffic(call.services, since, until, unit)


async def read_traffic(services: Services, since: datetime, until: datetime, unit: timedelta) -> TrafficShape:
    """Return the traffic of whole hours or days of UTC. Raises `DatabaseError`."""
    money = await services.reports.margins.by_time(since, until, hourly=unit is HOUR)
    counts = await services.traffic.steps(since, until, "hour" if unit is HOUR else "day")
    steps = steps_of(since, until, unit)
    return TrafficShape(
        since=rfc3339(since),
        until=rfc3339(until),
        step="hour" if unit is HOUR else "day",
        total=_total(money, counts),
        data=[TrafficStepShape.of_work(money.get(at, NOTHING), counts.get(at), start=rfc3339(at)) for at in steps],
    )


def _total(money: Mapping[datetime, Work], counts: Mapping[datetime, Step]) -> TrafficSumShape:
    work = Work(*map(sum, zip(NOTHING, *money.values(), strict=True)))
    refused, errors = (sum(getattr(each, name) for each in counts.values()) for name in ("refused", "errors"))
    return TrafficSumShape.of_work(work, Step(datetime.min.replace(tzinfo=UTC), refused, errors))


def _begin(at: datetime, unit: timedelta) -> datetime:
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if unit is HOUR else hour.replace(hour=0)


def _end(at: datetime, unit: timedelta) -> datetime:
    begin = _begin(at, unit)
    return begin if begin == at else begin + unit


@serves(OversightOperations.health)
async def get_gateway_health(call: Call) -> GatewayHealthShape:
    """Return whether something troubles this gateway, in all its processes, each with what it is about. `/healthz` has
    the same message."""
    troubles = call.services.troubles()
    return GatewayHealthShape(
        status="degraded" if troubles else "ok",
        message="; ".join(each.message for each in troubles),
        troubles=troubles,
    )


@contextmanager
def _redis_needed() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        message = "Redis, which has the health of providers, is temporarily unavailable; try again."
        raise Unavailable(message) from error


@serves(OversightOperations.providers)
async def list_providers(call: Call, query: ProvidersQuery) -> Listing[ProviderShape]:
    """List the providers of the configuration, whether they are on, the health of their base URLs and keys as the
    gateways have found it, and how they have answered."""
    services = call.services
    with _redis_needed():
        found = await services.providers()
    now, within = datetime.fromtimestamp(services.clock(), UTC), WITHIN[query.within]
    seen, last = await services.traffic.providers(now - within, now), await services.traffic.failures()

    def answered(name: str) -> ProviderTrafficShape:
        return ProviderTrafficShape.of_traffic(seen.get(name, ProviderTraffic()), last.get(name), within)

    return Listing(data=[structs.replace(each, traffic=answered(each.name)) for each in found], next_cursor=None)


@serves(OversightOperations.circuit_changes)
async def list_circuit_changes(call: Call) -> Listing[CircuitChangeShape]:
    """List when circuits of a provider's targets opened and closed, the last ones first, on one page."""
    provider, services = call.id("provider"), call.services
    with _redis_needed():
        known = {each.name for each in await services.providers()}
    if provider not in known:
        raise _no_provider(provider)
    found = await services.traffic.changes(provider)
    return Listing(data=[CircuitChangeShape.of(each) for each in found], next_cursor=None)


@serves(OversightOperations.test_provider)
async def test_provider(call: Call, body: NewProviderTest) -> ProviderTestShape:
    """Send a provider one small request, of at most 16 tokens of output, and return how it answers. What that costs is
    the operator's own: no account is charged, and the audit log has it. A circuit that is open closes where the
    provider answers; a test that fails changes none. One test of a provider runs at a time."""
    name, services = call.id("provider"), call.services

    async def recorded(said: Mapping[str, object]) -> None:
        async with services.audit.database.transaction() as connection:
            await audit.record(connection, call.actor, "provider.test", name, None, said)

    async def sending(model: str) -> None:  # whoever asks may leave before it has ended, and it costs the same
        await recorded({"model": model, "target": body.target})

    found = await services.test_provider(name, body.model, body.target, sending)
    if found is None:
        raise _no_provider(name)
    await recorded({"model": found.model, "target": found.target, "status": found.status, "cost_usd": found.cost_usd})
    return found


def _no_provider(name: str) -> NotFound:
    return NotFound(f"This gateway has no provider {name!r}.")


@serves(OversightOperations.dry_accounts)
async def list_dry_accounts(call: Call) -> Listing[DryAccountShape]:
    """List accounts whose credit, with their credit limit, lasts at most three days at what they spent in the last
    week, those that run out first on one page."""
    now = datetime.fromtimestamp(call.services.clock(), UTC)
    since = _begin(now, DAY) - MEAN_OF
    found = await call.services.reports.margins.running_dry(since, DRY_DAYS, MOST_DRY)
    return Listing(data=[DryAccountShape.of_account(each) for each in found], next_cursor=None)
