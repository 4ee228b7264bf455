"""What a service calls: checks, debits, usage and holds of any meter and feature; `MeteringContext` is what they have
in common.

A check and a debit are admitted as a request is, by the same script. A check gives its hold back. A debit is written to
the ledger while it is held, with its event's id, and Redis ends the hold by that correction: a process that is killed
before the write leaves a hold that the sweep gives back, and no debit. Usage has happened: it is written whatever the
balance, at the time when it did.

Holds are made, settled and given back by calls that may come to any gateway, twice, and late. `billing.holds.lasting`
says why none is lost or leaked. One ends once: its row goes from `held` to `settled` in the statement that writes the
debit, or to `voided`. A hold whose time is over is given back and `expired`; settled after that it is charged all the
same, for what was used was used. A call that comes twice is told by the event's id and by what it asks, and gets the
first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import msgspec

from billing.database.connection import Database, DatabaseError, UniqueViolation, queries
from billing.errors import Kind, MetergateError
from billing.holds.model import Hold, HoldRequest, NeedTooLarge, Unavailable
from billing.ledger.debits import NAMED, decode_debit, encode_debit
from billing.metering.charges import (
    BadMeasure,
    Busy,
    Charge,
    Claim,
    EventConflict,
    Measure,
    MeterNotPriced,
    NotAdmitted,
    Payer,
    Recorded,
    UnknownAccount,
    charge_by,
    charge_of,
    digest_of,
    measure_of,
    settled_before,
)
from billing.metering.events import DEBITS, HOLDS, USAGE
from billing.pricing import from_canonical_json
from billing.schemas.service import DebitShape, HoldShape
from billing.times import rfc3339
from billing.usage import Usage

if TYPE_CHECKING:
    from billing.holds.api import Holds, Opening
    from billing.holds.lasting import LastingHolds
    from billing.holds.model import Decision
    from billing.ledger.debits import Debit
    from billing.metering.events import EventWriter
    from billing.pricing import PriceTable
    from billing.principals import Principal
    from billing.settings import ServiceSettings
_sql = queries("billing.metering")
_ledger_query = queries("billing.ledger")

MOST_BACK_S: Final = 35 * 86_400
# How far an event's time may be from now, as Stripe's meters have it. One that is ahead is taken for now: no window is
# counted in before it begins.
MOST_AHEAD_S: Final = 5 * 60


# The pauses after which an event is looked for again that only holds keep out.
UNDER_WAY_S: Final = (0.02, 0.04, 0.08, 0.16)


PrincipalOf = Callable[[Payer, bool], Awaitable["Principal | None"]]


@dataclass
class MeteringContext:
    """What a debit or hold of a service needs: the account's principal, prices, and room. `principal_of` returns the
    principal of an account, read again if its second argument is true; `prices` returns the table in force; `clock` is
    in Unix seconds."""

    holds: Holds
    writer: EventWriter
    principal_of: PrincipalOf
    prices: Callable[[], PriceTable]
    settings: ServiceSettings
    new_id: Callable[[], str]
    clock: Callable[[], float]

    async def principal(self, payer: Payer, *, stale: bool = False, usable: bool = True) -> Principal:
        """Return the principal of an account, or of its key: one that is revoked or expired where it need not be
        `usable`. Raises `UnknownAccount` and `DatabaseError`."""
        found = await self.principal_of(payer, stale)
        if found is None or (usable and not found.usable_key(self.clock())):
            raise unknown(payer)
        return found

    def charge(self, measure: Measure, principal: Principal, at_s: float | None = None) -> Charge:
        """Return what a measure costs, now or at a Unix time. Raises `BadMeasure` and `MeterNotPriced`."""
        at_s = self.clock() if at_s is None else at_s
        charge = charge_of(measure, self.prices(), principal.plan.markup_of(measure.name), at_s)
        try:
            charge.need  # noqa: B018  (that it can be held is found out before anything is asked)
        except NeedTooLarge as error:
            raise BadMeasure(f"{error}.", "amount_usd") from error
        return charge

    def may_pay(self, principal: Principal) -> bool:
        """Return whether the account's status lets it spend."""
        return principal.may_pay(self.clock(), self.settings.grace_s)

    def request(self, payer: Payer, principal: Principal, charge: Charge, expired: Debit) -> HoldRequest:
        """Return what asks for a hold of a charge, and asks again for an account that has changed. `expired` is the
        debit that it becomes should this process die."""

        async def renew(*, stale: bool) -> HoldRequest | None:
            if not stale:
                return None
            principal = await self.principal(payer, stale=True)
            if not self.may_pay(principal):
                raise NotAdmitted(principal, None, charge.charged_nano)
            return msgspec.structs.replace(request, principal=principal)

        request = HoldRequest(
            id=expired.request_id,
            principal=principal,
            model=charge.measure.name,
            feature=charge.measure.feature,
            need=charge.need,
            expired=encode_debit(expired),
            renew=renew,
        )
        return request

    async def recorded(self, claim: Claim, error: MetergateError) -> Recorded:
        """Return the first answer to an event that would be refused for `error` now. Raises that where there was none,
        and as `EventWriter.find`."""
        if (found := await self.writer.find(claim)) is None:
            raise error
        return found

    async def known(self, claim: Claim, principal: Principal, decision: Decision | None, charge: Charge) -> Recorded:
        """Return the first answer to an event that has no room now. What keeps it out may be the same event, which
        another gateway writes at this moment: then it is looked for a few times more. Raises as `refuse` where there
        was none."""
        found = await self.writer.find(claim)
        for pause_s in UNDER_WAY_S if getattr(decision, "is_held", False) else ():
            if found is not None:
                break
            await asyncio.sleep(pause_s)
            found = await self.writer.known(claim)
        if found is None:
            refuse(principal, decision, charge)
        return found


def unknown(payer: Payer) -> UnknownAccount:
    """Return what says that there is no such account, or no such key of it."""
    if payer.key_id is None:
        return UnknownAccount(f"There is no account {payer.account_id!r}.")
    return UnknownAccount(
        f"The account {payer.account_id!r} has no key {payer.key_id!r} that may be used: "
        "leave key_id out, or name a key of its own that is neither revoked nor expired."
    )


def refuse(principal: Principal, decision: Decision | None, charge: Charge) -> NoReturn:
    """Refuse what was not admitted; None: by the account's status. Raises `NotAdmitted`, or `Busy`."""
    if isinstance(decision, Unavailable):
        raise Busy(f"Nothing could be decided: {decision.reason}; try again.")
    raise NotAdmitted(principal, None if isinstance(decision, Hold) else decision, charge.charged_nano)


@dataclass
class Metering:
    """Checks, debits and usage."""

    context: MeteringContext

    async def check(self, payer: Payer, measure: Measure) -> tuple[int, int]:
        """Return what a hold of this would take, and what there is to spend, in nano-USD, if it is granted now. Raises
        `NotAdmitted`, `Busy`, `UnknownAccount`, and what pricing raises."""
        context = self.context
        principal = await context.principal(payer)
        charge = context.charge(measure, principal)
        if not context.may_pay(principal):
            refuse(principal, None, charge)
        debit = charge.debit(context.new_id(), principal, DEBITS, None, int(context.clock() * 1000))
        async with self._opened(payer, principal, charge, debit) as decision:
            if isinstance(decision, Hold):
                return charge.charged_nano, decision.available_nano + charge.charged_nano
        refuse(principal, decision, charge)

    async def debit(self, payer: Payer, event_id: str, measure: Measure) -> Recorded:
        """Charge an account now, if it has room for it. Raises as `check`, and `EventConflict`, `EventRefused`."""
        context = self.context
        principal = await context.principal(payer, usable=False)
        claim = Claim(payer.account_id, event_id, digest_of("debit", measure, *payer.key), "")
        try:
            charge = context.charge(measure, principal)
        except (BadMeasure, MeterNotPriced) as error:
            return await context.recorded(claim, error)
        if not principal.usable_key(context.clock()):
            return await context.recorded(claim, unknown(payer))
        if not context.may_pay(principal):
            return await context.known(claim, principal, None, charge)
        debit = charge.debit(context.new_id(), principal, DEBITS, event_id, int(context.clock() * 1000))
        async with self._opened(payer, principal, charge, debit) as decision:
            if isinstance(decision, Hold):
                debit = msgspec.structs.replace(debit, admitted_at_ms=decision.admitted_at_ms)
                return await self._written(decision, replace(claim, answer=self._answer(debit, measure)), debit)
        return await context.known(claim, principal, decision, charge)

    async def _written(self, hold: Hold, claim: Claim, debit: Debit) -> Recorded:
        """Write a debit that is held, whether or not anybody waits for it. Its hold ends with it, or is given back
        where the event was known, or could not be written."""
        written, holds = self.context.writer.write(claim, debit), self.context.holds

        async def end() -> None:
            await asyncio.wait([written])
            if written.exception() is None and not written.result().replayed:
                holds.written(hold)

        holds.hand_over(hold, end())
        return await asyncio.shield(written)

    async def record(self, payer: Payer, event_id: str, measure: Measure, at: datetime | None) -> Recorded:
        """Charge an account for what it has used, whatever its balance, in the windows of that time. Raises as `debit`
        but for `NotAdmitted`, and `BadMeasure` for a time out of bounds."""
        context = self.context
        principal = await context.principal(payer, usable=False)
        now_s = context.clock()
        at_s = now_s if at is None else at.timestamp()
        digest = digest_of("usage", measure, None if at is None else int(at_s * 1000), *payer.key)
        claim = Claim(payer.account_id, event_id, digest, "")
        if not now_s - MOST_BACK_S <= at_s <= now_s + MOST_AHEAD_S:
            return await context.recorded(
                claim, BadMeasure("time is at most 35 days back and 5 minutes ahead.", "time")
            )
        at_s = min(at_s, now_s)
        try:
            charge = context.charge(measure, principal, at_s)
        except (BadMeasure, MeterNotPriced) as error:
            return await context.recorded(claim, error)
        debit = charge.debit(context.new_id(), principal, USAGE, event_id, int(at_s * 1000))
        return await asyncio.shield(context.writer.write(replace(claim, answer=self._answer(debit, measure)), debit))

    def _opened(self, payer: Payer, principal: Principal, charge: Charge, debit: Debit) -> Opening:
        measure = charge.measure
        # Should this process die nothing was debited, whatever is charged for holds of requests: the caller asks again.
        nothing = Charge(measure, Usage(), 0, 0).debit(
            debit.request_id, principal, DEBITS, debit.client_request_id, debit.admitted_at_ms
        )
        return self.context.holds.open(self.context.request(payer, principal, charge, nothing))

    def _answer(self, debit: Debit, measure: Measure) -> str:
        fields = {
            "id": debit.request_id,
            "event_id": debit.client_request_id,
            "account_id": debit.account_id,
            "feature": debit.feature,
            "meter": measure.meter,
            "price_id": None if debit.price_id == NAMED else debit.price_id,
            "created_at": rfc3339(datetime.fromtimestamp(debit.admitted_at_ms / 1000, UTC)),
        }
        shape = DebitShape.of_debit(fields, debit.charged_nano, self.context.settings.credits_per_usd)
        return msgspec.json.encode(shape).decode()


CREATE: Final = _sql("service_holds_create")
GET: Final = _sql("service_holds_get")
VOID: Final = _sql("service_holds_void")
PRICE: Final = _ledger_query("reports_price")


class UnknownHold(MetergateError):
    """There is no such hold."""

    kind: ClassVar[Kind] = "not_found"


@dataclass
class ServiceHolds:
    """Holds of services. `partition_of` gives the partition of an account."""

    context: MeteringContext
    database: Database
    lasting: LastingHolds
    partition_of: Callable[[str], int]

    async def hold(self, payer: Payer, event_id: str, measure: Measure, expires_in_s: int | None) -> Recorded:
        """Hold what something may cost, until it is settled or given back, or its time is over. Raises as
        `Metering.debit`, and `BadMeasure` for a time out of bounds."""
        context, settings = self.context, self.context.settings
        lasts_s = min(settings.service_hold_s, settings.service_hold_max_s) if expires_in_s is None else expires_in_s
        if not 0 < lasts_s <= settings.service_hold_max_s:
            raise BadMeasure(f"expires_in_s is 1 to {settings.service_hold_max_s}.", "expires_in_s")
        principal = await context.principal(payer)
        claim = Claim(payer.account_id, event_id, digest_of("hold", measure, expires_in_s), "")
        try:
            charge = context.charge(measure, principal)
        except (BadMeasure, MeterNotPriced) as error:
            return await context.recorded(claim, error)
        if (full := self._full(payer.account_id)) is not None:
            if (known := await context.writer.find(claim)) is not None:
                return known
            raise Busy(full)
        if not context.may_pay(principal):
            return await context.known(claim, principal, None, charge)
        debit = charge.debit(context.new_id(), principal, HOLDS, event_id, int(context.clock() * 1000))
        async with context.holds.open_lasting(context.request(payer, principal, charge, debit)) as decision:
            if isinstance(decision, Hold):
                debit = msgspec.structs.replace(debit, admitted_at_ms=decision.admitted_at_ms)
                made: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
                context.writer.expect(claim, made)
                context.holds.hand_over(decision, self._keep(decision, payer, claim, debit, lasts_s, made))
                return await asyncio.shield(made)
        return await context.known(claim, principal, decision, charge)

    def _full(self, account_id: str) -> str | None:
        """Return why no further hold of this account can be open; None where it can."""
        settings, open_of = self.context.settings, self.lasting.open_of
        if open_of[account_id] >= settings.service_holds_per_account:
            most = settings.service_holds_per_account
            return f"This account has {most} holds of services: settle or void some, and try again."
        if open_of.total() >= settings.service_holds:
            return f"{settings.service_holds} holds of services are open: settle or void some, and try again."
        return None

    async def _keep(
        self, hold: Hold, payer: Payer, claim: Claim, debit: Debit, lasts_s: int, made: asyncio.Future[Recorded]
    ) -> None:
        """Write the row of a hold, which is given back where its event was known. Where it is not known whether the
        row is there it is taken for there: the entry of one that is not is tidied away."""
        context, now = self.context, datetime.fromtimestamp(self.context.clock(), UTC)
        expires = now + timedelta(seconds=lasts_s)
        fields = _hold_fields(debit, claim.event_id, "held", now, expires)
        answer = msgspec.json.encode(HoldShape.of_hold(fields, debit.charged_nano)).decode()
        values = hold.id, payer.account_id, claim.event_id, claim.digest, answer, payer.service
        try:
            partition = self.partition_of(payer.account_id)
            row = await self.database.row(CREATE, *values, partition, encode_debit(debit), lasts_s)
            if row is not None:
                context.holds.kept(hold)
                self.lasting.open_of[payer.account_id] += 1
                _give(made, Recorded(answer))
            else:
                _give(made, await context.writer.known(claim) or Busy("Send this again, with the same event_id."))
        except EventConflict as error:
            _give(made, error)
        except DatabaseError:
            if hold.is_open:
                context.holds.kept(hold)
            _give(made, Busy("The ledger is away: send this again, with the same event_id."))

    async def settle(self, hold_id: str, event_id: str | None, used: dict[str, Any]) -> Recorded:
        """Turn a hold into a debit of what was used, also where its time is over. `used` are fields of `Measure`, of
        what the hold is for. Raises `UnknownHold`, `EventConflict`, `EventRefused`, `Busy`, and what pricing raises."""
        context, row = self.context, await self._row(hold_id)
        held = decode_debit(row["payload"])
        measure = _used(measure_of(held), used)
        digest = digest_of("settle", measure, hold_id)
        claim = Claim(row["account_id"], event_id or _end_of(hold_id), digest, "", hold_id)
        if row["state"] in ("settled", "voided"):
            return settled_before(claim, row)
        principal = await context.principal(Payer(row["service"], row["account_id"]))
        charge = await self._charge(held, measure, principal)
        debit = charge.debit(hold_id, principal, HOLDS, row["event_id"], held.admitted_at_ms)
        fields = _hold_fields(held, row["event_id"], "settled", row["created_at"], row["expires_at"])
        ended_at = rfc3339(datetime.fromtimestamp(context.clock(), UTC))
        shape = HoldShape.of_hold(fields, held.charged_nano, charge.charged_nano, ended_at)
        claim = replace(claim, answer=msgspec.json.encode(shape).decode())
        return await asyncio.shield(context.writer.write(claim, debit))

    async def _charge(self, held: Debit, measure: Measure, principal: Principal) -> Charge:
        """Return what a settlement charges: counts by the price that the hold was made at, whatever the table has by
        now. Raises as `MeteringContext.charge`."""
        is_priced = measure.amount_nano is None and held.price_id != NAMED
        said = await self.database.value(PRICE, held.price_id) if is_priced else None
        if said is None:
            return self.context.charge(measure, principal, held.admitted_at_ms / 1000)
        return charge_by(from_canonical_json(said), held.price_id, measure, held.markup_scaled)

    async def void(self, hold_id: str, event_id: str | None) -> tuple[HoldShape, bool]:
        """Give a hold back; also say whether it had ended before. Raises `UnknownHold`, and `EventConflict` for one
        that is settled, or was given back by another event."""
        row = await self._row(hold_id)
        event_id, done = event_id or _end_of(hold_id), None
        if row["state"] == "held":
            try:
                done = await self.database.row(VOID, hold_id, event_id, digest_of("void", None, hold_id))
            except UniqueViolation as error:
                raise EventConflict("This event_id was used for another hold.") from error
            if done is not None:
                self.lasting.give_back(hold_id, row["account_id"], decode_debit(row["payload"]).key_id)
            row = await self._row(hold_id)
        if row["state"] == "held":
            raise EventConflict(f"The event_id {event_id!r} was used for something else: use another one.")
        if row["state"] not in ("voided", "expired") or row["end_event_id"] not in (None, event_id):
            raise EventConflict(f"The hold {hold_id} is {row['state']} already: this event can't give it back.")
        return _shape(row), done is None

    async def get(self, hold_id: str) -> HoldShape:
        """Return a hold as it is now. Raises `UnknownHold`."""
        return _shape(await self._row(hold_id))

    async def _row(self, hold_id: str) -> Any:
        row = await self.database.row(GET, [hold_id])
        if row is None:
            raise UnknownHold(f"There is no hold {hold_id!r}.")
        return row


def _used(held: Measure, used: dict[str, Any]) -> Measure:
    """Return the measure by which a hold is settled. Raises `BadMeasure`."""
    if "provider" in used and held.provider != used["provider"] and not (held.model and held.provider is None):
        raise BadMeasure("A provider is named where the hold is of a model, and named none.", "provider")
    return replace(held, **used)


def _end_of(hold_id: str) -> str:
    return f"{hold_id}:end"


def _give(made: asyncio.Future[Recorded], what: Recorded | MetergateError) -> None:
    if made.done():
        return
    if isinstance(what, Recorded):
        made.set_result(what)
    else:
        made.set_exception(what)
        made.exception()  # retrieved here: there may be no caller any more


def _hold_fields(debit: Debit, event_id: str, state: str, created: datetime, expires: datetime) -> dict[str, Any]:
    return {
        "id": debit.request_id,
        "event_id": event_id,
        "account_id": debit.account_id,
        "state": state,
        "feature": debit.feature,
        "meter": measure_of(debit).meter,
        "created_at": rfc3339(created),
        "expires_at": rfc3339(expires),
    }


def _shape(row: Any) -> HoldShape:
    if row["state"] == "settled":
        return msgspec.json.decode(row["end_answer"], type=HoldShape)
    debit, ended = decode_debit(row["payload"]), row["ended_at"]
    fields = _hold_fields(debit, row["event_id"], row["state"], row["created_at"], row["expires_at"])
    return HoldShape.of_hold(fields, debit.charged_nano, ended_at=None if ended is None else rfc3339(ended))
