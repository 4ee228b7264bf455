"""What services call, made of the engine: events and holds, and refusals in the words of requests' own."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from aiohttp import web

from billing.api.route import REQUEST_ID
from billing.api.services import Meters
from billing.keys.principals import service_name
from billing.metering.events import EventWriter
from billing.metering.metering import Desk, Metering, ServiceRules
from billing.metering.service_holds import ServiceHolds
from gateway.server import limit_refusals

if TYPE_CHECKING:
    from billing.database.connection import Database
    from billing.holds.cache import PrincipalCache
    from billing.holds.engine import Engine
    from billing.metering.claims import NotAdmitted, Payer
    from billing.price_table import PriceTable
    from billing.principals import Principal
    from gateway.config.settings import Settings
    from gateway.server.limit_refusals import Links

DAY_S: Final = 86_400


def make_meters(
    settings: Settings,
    database: Database,
    engine: Engine,
    prices: Callable[[], PriceTable],
    links: Links,
    new_id: Callable[[], str],
) -> Meters:
    """Return what services call in this process."""
    defaults = settings.defaults
    rules = ServiceRules(
        hold_s=defaults.service_hold_s,
        hold_max_s=defaults.service_hold_max_s,
        holds=defaults.service_holds,
        grace_s=settings.payment_grace_days * DAY_S,
        credits_per_usd=defaults.credits_per_usd,
    )
    writer = EventWriter(
        database,
        engine.change_notifier.balances_changed,
        engine.holds.spawn,
        batch_rows=defaults.ledger_batch_rows,
        most=defaults.service_events_waiting,
    )
    desk = Desk(engine.holds, writer, _principals(engine.cache), prices, rules, new_id, time.time)
    holds = ServiceHolds(desk, database, engine.lasting, engine.keyspace.partition_of)
    return Meters(Metering(desk), holds, _refusals(engine, links))


def _principals(cache: PrincipalCache) -> Callable[[Payer, bool], Awaitable[Principal | None]]:
    """Return what gives the principal of an account that a service meters, from the memory that keys' are in."""

    async def principal(payer: Payer, stale: bool) -> Principal | None:
        name = service_name(payer.account_id, payer.service, payer.key_id)
        return await (cache.reload(name) if stale else cache.get(name))

    return principal


def _refusals(engine: Engine, links: Links) -> Callable[[NotAdmitted, web.Request], Awaitable[web.StreamResponse]]:
    """Return what refuses what an account has no room for, as the proxy does."""

    async def refusal(error: NotAdmitted, request: web.Request) -> web.StreamResponse:
        principal = error.principal
        if error.decision is not None:
            found = limit_refusals.of_decision(error.decision, principal, links)
        else:
            live = await engine.change_notifier.live_balance(principal.account_id)
            available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
            found = limit_refusals.billing_required(principal, links, available_nano, error.required_nano)
        return found.response(request.get(REQUEST_ID) or "")

    return refusal
