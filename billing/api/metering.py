"""/api/service: what other services meter, behind the service key: balance, checks, debits, usage, holds, keys.

Every write is answered once: the same again under its `event_id` gets the first answer and `idempotent-replayed`. What
an account has no room for is refused with the body that the proxy would refuse it with.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from billing.api.errors import ApiError, BadRequest, Unavailable, of_failure
from billing.api.event_bodies import checked, events_of
from billing.api.operations import ServiceOperations
from billing.api.requests import decoded, moment, money, positive_money, read_bounded
from billing.api.route import REPLAYED_HEADER, Call, answer, serves
from billing.api.usage import balance_of
from billing.errors import MetergateError
from billing.metering.charges import Measure, parse_quantity
from billing.metering.claims import NotAdmitted, Payer
from billing.money import format_usd
from billing.schemas.decoding import mismatch
from billing.schemas.service import (
    Asked,
    AskedOfKey,
    CheckShape,
    CloudEvent,
    Counted,
    DebitShape,
    EventError,
    EventResult,
    Giving,
    HoldShape,
    KeyAsked,
    KeyCheckShape,
    KeyHolder,
    NewDebit,
    NewHold,
    NewUsage,
    Settlement,
    UsageResults,
    usage_of,
)
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from billing.api.services import Meters
    from billing.metering.claims import Recorded
    from billing.schemas.usage import BalanceShape

logger = logging.getLogger(__name__)

# Events of one call.
MOST_EVENTS: Final = 1_000
# So many are begun in one turn of the event loop: two milliseconds or so.
EVENTS_A_TURN: Final = 25
OK: Final = 200
CREATED: Final = 201


@serves(ServiceOperations.account_balance)
async def get_account_balance(call: Call) -> BalanceShape:
    """Return an account's balance, live."""
    return await balance_of(call.services, call.id("account_id"))


@serves(ServiceOperations.check)
async def check(call: Call, body: AskedOfKey) -> CheckShape | web.StreamResponse:
    """Say whether a hold of this would be granted now; what is not is refused as the proxy would refuse it. Nothing is
    held or counted."""
    try:
        required_nano, available_nano = await _meters(call).metering.check(_payer(call, body), _measure(body))
    except NotAdmitted as error:
        return await _meters(call).refusal(error, call.request)
    return CheckShape(
        allowed=True,
        account_id=body.account_id,
        required_usd=format_usd(required_nano),
        available_usd=format_usd(available_nano),
    )


@serves(ServiceOperations.debit)
async def create_debit(call: Call, body: NewDebit) -> web.StreamResponse:
    """Charge an account, if its balance and quotas have room for it; once for an event_id."""
    try:
        done = await _meters(call).metering.debit(_payer(call, body), body.event_id, _measure(body, positive=True))
    except NotAdmitted as error:
        return await _meters(call).refusal(error, call.request)
    return _recorded(done, CREATED)


@serves(ServiceOperations.record)
async def create_usage(call: Call) -> UsageResults:
    """Charge accounts for what they have used, whatever their balances, each event once. One event, or `events`; or
    CloudEvents 1.0 (batched, structured, or binary: with `ce-` headers), whose `source` and `id` are the event's id,
    `subject` the account, `type` the meter. An event is of at most 64 KiB and 35 days old; at most 1,000 in a call. Of
    several, each has its result; what is wrong with one alone is the answer's error."""
    body = await read_bounded(call.request, call.services.max_body_bytes)
    given = events_of(call.request.content_type, call.request.headers, body)
    if len(given.events) > MOST_EVENTS:
        raise BadRequest(f"A call has at most {MOST_EVENTS} events: send the others in another one.", "events")
    work: list[asyncio.Task[EventResult]] = []
    for index, each in enumerate(given.events):
        work.append(asyncio.create_task(_record(call, index, each, cloud=given.cloud, alone=given.alone)))
        if index % EVENTS_A_TURN == 0:
            await asyncio.sleep(0)
    return _results(await asyncio.gather(*work))


@serves(ServiceOperations.create_hold)
async def create_hold(call: Call, body: NewHold) -> web.StreamResponse:
    """Hold what something may cost at most, until it is settled or voided, or expires; once for an event_id."""
    asked = body.event_id, _measure(body, positive=True), body.expires_in_s
    try:
        done = await _meters(call).holds.hold(_payer(call, body), *asked)
    except NotAdmitted as error:
        return await _meters(call).refusal(error, call.request)
    return _recorded(done, CREATED)


@serves(ServiceOperations.service_hold)
async def get_hold(call: Call) -> HoldShape:
    """Return a hold as it is now."""
    return await _meters(call).holds.get(call.id("hold_id"))


@serves(ServiceOperations.settle_hold)
async def settle_hold(call: Call, body: Settlement) -> web.StreamResponse:
    """Turn a hold into a debit of what was used, once: also more than was held, also when its time is over."""
    return _recorded(await _meters(call).holds.settle(call.id("hold_id"), body.event_id, _settled(body)), OK)


@serves(ServiceOperations.void_hold)
async def void_hold(call: Call, body: Giving) -> HoldShape:
    """Give a hold back, once. One whose time is over is given back already."""
    shape, replayed = await _meters(call).holds.void(call.id("hold_id"), body.event_id)
    if replayed:
        call.headers[REPLAYED_HEADER] = "true"
    return shape


@serves(ServiceOperations.check_key)
async def check_key(call: Call, body: KeyAsked) -> KeyCheckShape:
    """Say whose API key somebody has shown to the service. A wrong one is an answer, and no attempt of the service's
    address: that is the service's to count, who knows where it came from."""
    services = call.services
    found = await services.authenticate(body.key)
    if found is None or not found.usable_key(services.clock()):
        return KeyCheckShape(active=False, holder=None)
    expires = found.expires_at_s
    holder = KeyHolder(
        key_id=found.key_id,
        key_name=found.key_name,
        account_id=found.account_id,
        account_status=found.status,
        plan=found.plan.id,
        user_id=found.user_id,
        scopes=sorted(found.scopes),
        models=None if found.models is None else list(found.models),
        tags=dict(found.tags),
        expires_at=None if expires is None else rfc3339(datetime.fromtimestamp(expires, UTC)),
    )
    return KeyCheckShape(active=True, holder=holder)


async def _record(call: Call, index: int, raw: msgspec.Raw, *, cloud: bool, alone: bool) -> EventResult:
    """Record one event, and say what came of it. Raises what is wrong with it where it is `alone`."""
    event_id = None
    try:
        readable = checked(raw)
        event = _cloud_event(readable) if cloud else decoded(readable, NewUsage)
        event_id = event.event_id
        at = moment("time", event.time)
        done = await _meters(call).metering.record(_payer(call, event), event_id, _measure(event), at)
    except (MetergateError, TimeoutError) as error:
        refusal = of_failure(error)
        if alone or refusal is None:
            raise
        return _event_refused(index, event_id, refusal)
    except Exception:  # whatever it is: the batch's other events are debited already, and their answers must arrive
        if alone:
            raise
        logger.exception("a usage event could not be recorded")
        return _event_refused(index, event_id, ApiError("The gateway failed: send this event again."))
    debit = msgspec.json.decode(done.answer, type=DebitShape)
    return EventResult(index=index, event_id=event_id, status="replayed" if done.replayed else "recorded", debit=debit)


def _cloud_event(raw: msgspec.Raw) -> NewUsage:
    event = decoded(raw, CloudEvent)
    try:
        return usage_of(event)
    except msgspec.ValidationError as error:
        raise BadRequest(f"data: {mismatch(error, NewUsage)[0]}", "data") from error


def _event_refused(index: int, event_id: str | None, refusal: ApiError) -> EventResult:
    error = EventError(code=refusal.code, message=refusal.message, param=refusal.param)
    return EventResult(index=index, event_id=event_id, status="refused", error=error)


def _results(found: Sequence[EventResult]) -> UsageResults:
    counts = {status: sum(each.status == status for each in found) for status in ("recorded", "replayed", "refused")}
    return UsageResults(data=list(found), **counts)


def _meters(call: Call) -> Meters:
    if call.services.meters is None:
        raise Unavailable("This process meters nothing for services: ask a gateway that serves.")
    return call.services.meters


def _payer(call: Call, body: Asked) -> Payer:
    return Payer(call.caller.id or "", body.account_id, body.key_id if isinstance(body, AskedOfKey) else None)


def _counted(body: Counted, *, positive: bool = False) -> dict[str, Any]:
    """Return the fields of a measure that say how much. Raises `BadRequest`."""
    parse = positive_money if positive else money
    return {
        "amount_nano": None if body.amount_usd is UNSET else parse("amount_usd", body.amount_usd),
        "thousandths": None if body.quantity is UNSET else parse_quantity(body.quantity),
        "input_tokens": body.input_tokens,
        "cached_input_tokens": body.cached_input_tokens,
        "cache_write_tokens": body.cache_write_tokens,
        "output_tokens": body.output_tokens,
    }


def _settled(body: Settlement) -> dict[str, Any]:
    """Return as `_counted`, with the provider where one is named."""
    return _counted(body) if body.provider is None else {**_counted(body), "provider": body.provider}


def _measure(body: Asked, *, positive: bool = False) -> Measure:
    return Measure(
        **_counted(body, positive=positive),
        meter=body.meter,
        provider=body.provider,
        model=body.model,
        feature=body.feature,
        user_id=body.user_id,
        tags=body.tags,
    )


def _recorded(done: Recorded, status: int) -> web.Response:
    response = answer(msgspec.Raw(done.answer.encode()), status)
    if done.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
