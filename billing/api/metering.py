"""/api/service: what other services meter, behind the service key: balance, checks, debits, usage, holds, keys.

Every write is answered once: the same again under its `event_id` gets the first answer and `idempotent-replayed`. What
an account has no room for is refused with the body that the proxy would refuse it with.

An event that can't be read (a NUL, a lone surrogate, bytes that are not UTF-8, anything else that is no JSON) must not
spoil the others of its batch. A body that the JSON parser refuses as a whole is therefore cut at the commas between its
events, as far as quotes and brackets are balanced; each piece is then read by itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from billing.api.operation import JSON
from billing.api.operations import ServiceOperations
from billing.api.remaining import balance_of
from billing.api.requests import (
    ApiError,
    BadRequest,
    Unavailable,
    decoded,
    moment,
    money,
    of_failure,
    positive_money,
    read_bounded,
)
from billing.api.route import REPLAYED_HEADER, Call, answer, serves
from billing.errors import MetergateError
from billing.metering.charges import Measure, NotAdmitted, Payer, parse_quantity
from billing.money import format_usd
from billing.schemas.decoding import mismatch
from billing.schemas.service import (
    BINARY_EVENT,
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
    structured,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from billing.api.services import Meters
    from billing.metering.charges import Recorded
    from billing.schemas.usage import BalanceShape


CLOUD_EVENT: Final = "application/cloudevents+json"
CLOUD_BATCH: Final = "application/cloudevents-batch+json"
# Of one event, as CloudEvents 1.0 asks every intermediary to take.
MOST_EVENT_BYTES: Final = 64 * 1024
_LIST: Final = re.compile(rb"\s*\[(.*)\]\s*", re.DOTALL)
_EVENTS: Final = re.compile(rb'\s*\{\s*"events"\s*:\s*\[(.*)\]\s*\}\s*', re.DOTALL)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{},"]', re.DOTALL)
_OPENS: Final = (b"[", b"{")
_CLOSES: Final = (b"]", b"}")
_NUL: Final = re.compile(rb"\0|(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class EventBodies:
    """The events of one body, each as it came. `cloud`: they are CloudEvents. `alone`: the body is one event, so that
    what is wrong with it is the answer's error."""

    events: list[msgspec.Raw]
    cloud: bool
    alone: bool


def events_of(content_type: str, headers: Mapping[str, str], body: bytes) -> EventBodies:
    """Take a body apart. Raises `BadRequest` for one that holds no events."""
    if content_type == CLOUD_BATCH:
        return EventBodies(_several(body, list[msgspec.Raw], _LIST), cloud=True, alone=False)
    if content_type == CLOUD_EVENT:
        return EventBodies([msgspec.Raw(body)], cloud=True, alone=True)
    if content_type != JSON:
        raise BadRequest(f"The body is {JSON}, {CLOUD_EVENT} or {CLOUD_BATCH}.", "Content-Type")
    if BINARY_EVENT in headers:
        data = checked(msgspec.Raw(body))
        try:
            return EventBodies([structured(headers, data)], cloud=True, alone=True)
        except UnicodeDecodeError as error:
            raise BadRequest("The headers ce-… are percent-encoded UTF-8.") from error
    if _EVENTS.fullmatch(body) is None and decoded(body, _MaybeSeveral).events is UNSET:
        return EventBodies([msgspec.Raw(body)], cloud=False, alone=True)
    return EventBodies(_several(body, _Several, _EVENTS), cloud=False, alone=False)


def checked(event: msgspec.Raw) -> msgspec.Raw:
    """Return the JSON of an event, or its data, if all of its text can be stored. Raises `BadRequest`."""
    raw = bytes(event)
    if len(raw) > MOST_EVENT_BYTES:
        raise BadRequest(f"An event has at most {MOST_EVENT_BYTES} bytes.")
    if _NUL.search(raw) is not None:
        raise BadRequest("An event must not contain NUL characters.")
    try:
        raw.decode()  # the parser looks at the texts that it keeps alone
    except UnicodeDecodeError as error:
        raise BadRequest("An event must be UTF-8.") from error
    return msgspec.Raw(decoded(raw, msgspec.Raw))


class _MaybeSeveral(msgspec.Struct):
    """Tells several events from one."""

    events: list[msgspec.Raw] | msgspec.UnsetType = UNSET


class _Several(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


def _several(body: bytes, model: Any, pattern: re.Pattern[bytes]) -> list[msgspec.Raw]:
    """Return the events of a batch, the readable and the unreadable ones."""
    try:
        found = decoded(body, model, "events")
    except BadRequest:
        array = pattern.fullmatch(body)
        pieces = None if array is None else _pieces(array[1])
        if pieces is None:
            raise
        return pieces
    return found.events if isinstance(found, _Several) else found


def _pieces(items: bytes) -> list[msgspec.Raw] | None:
    """Return what stands between the commas of an array; None where quotes or brackets are not balanced."""
    pieces: list[msgspec.Raw] = []
    depth = begin = 0
    for token in _TOKEN.finditer(items):
        mark = token[0]
        if mark in _OPENS:
            depth += 1
        elif mark in _CLOSES:
            depth -= 1
        elif mark == b'"':
            return None
        elif mark == b"," and depth == 0:
            pieces.append(msgspec.Raw(items[begin : token.start()]))
            begin = token.end()
        if depth < 0:
            return None
    pieces.append(msgspec.Raw(items[begin:]))
    return pieces if depth == 0 else None


logger = logging.getLogger(__name__)

# Events of one call.
MOST_EVENTS: Final = 1_000
# So many are begun in one turn of the event loop: two milliseconds or so.
EVENTS_A_TURN: Final = 25
OK: Final = 200
_TOKENS: Final = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens")
_MEASURED: Final = ("meter", "provider", "model", "feature", "user_id", "tags")
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
    holder = KeyHolder.of(
        found,
        account_status=found.status,
        plan=found.plan.id,
        scopes=sorted(found.scopes),
        expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
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
        **{name: getattr(body, name) for name in _TOKENS},
    }


def _settled(body: Settlement) -> dict[str, Any]:
    """Return as `_counted`, with the provider where one is named."""
    return _counted(body) if body.provider is None else {**_counted(body), "provider": body.provider}


def _measure(body: Asked, *, positive: bool = False) -> Measure:
    return Measure(**_counted(body, positive=positive), **{name: getattr(body, name) for name in _MEASURED})


def _recorded(done: Recorded, status: int) -> web.Response:
    response = answer(msgspec.Raw(done.answer.encode()), status)
    if done.replayed:
        response.headers[REPLAYED_HEADER] = "true"
    return response
