"""Holds of services: made, settled and given back by calls that may come to any gateway, twice, and late.

`billing.holds.lasting` says why no hold is lost or leaked. Here stands how one ends, once: the row goes from `held` to
`settled` in the statement that writes the debit, or to `voided`. A hold whose time is over is given back and `expired`;
settled after that it is charged all the same, for what was used was used. A call that comes twice is told by the
event's id and by what it asks, and gets the first answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from billing.database.connection import Database, DatabaseError, UniqueViolation, queries
from billing.errors import Kind, MetergateError
from billing.holds.model import Hold
from billing.ledger.debits import NAMED, decode_debit, encode_debit
from billing.metering.charges import (
    BadMeasure,
    Busy,
    Charge,
    Claim,
    EventConflict,
    Measure,
    MeterNotPriced,
    Payer,
    Recorded,
    charge_by,
    digest_of,
    measure_of,
    settled_before,
)
from billing.metering.events import HOLDS
from billing.pricing.rows import from_canonical_json
from billing.schemas.service import HoldShape
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.holds.lasting import LastingHolds
    from billing.ledger.debits import Debit
    from billing.metering.metering import MeteringContext
    from billing.principals import Principal

_sql = queries("billing.metering")
_ledger_query = queries("billing.ledger")
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
