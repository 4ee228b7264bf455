"""What a service calls: checks, debits and usage of any meter and feature; `Desk` is what all have in common.

A check and a debit are admitted as a request is, by the same script. A check gives its hold back. A debit is written to
the ledger while it is held, with its event's id, and Redis ends the hold by that correction: a process that is killed
before the write leaves a hold that the sweep gives back, and no debit. Usage has happened: it is written whatever the
balance, at the time when it did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from billing.holds.model import Hold, HoldRequest, NeedTooLarge, Unavailable
from billing.ledger.debits import NAMED, encode_debit
from billing.metering.charges import BadMeasure, Charge, Measure, MeterNotPriced, charge_of, digest_of
from billing.metering.claims import Busy, Claim, NotAdmitted, Payer, Recorded, UnknownAccount
from billing.metering.events import DEBITS, USAGE
from billing.schemas.service import DebitShape
from billing.times import rfc3339
from billing.usage import Usage

if TYPE_CHECKING:
    from billing.errors import MetergateError
    from billing.holds.api import Holds, Opening
    from billing.holds.model import Decision
    from billing.ledger.debits import Debit
    from billing.metering.events import EventWriter
    from billing.pricing.table import PriceTable
    from billing.principals import Principal
    from billing.settings import ServiceSettings

MOST_BACK_S: Final = 35 * 86_400
# How far an event's time may be from now, as Stripe's meters have it. One that is ahead is taken for now: no window is
# counted in before it begins.
MOST_AHEAD_S: Final = 5 * 60


# The pauses after which an event is looked for again that only holds keep out.
UNDER_WAY_S: Final = (0.02, 0.04, 0.08, 0.16)


PrincipalOf = Callable[[Payer, bool], Awaitable["Principal | None"]]


class Desk:
    """What a debit or hold of a service needs: the account's principal, prices, and room. `principal_of` returns the
    principal of an account, read again if its second argument is true; `prices` returns the table in force; `clock` is
    in Unix seconds."""

    def __init__(
        self,
        holds: Holds,
        writer: EventWriter,
        principal_of: PrincipalOf,
        prices: Callable[[], PriceTable],
        settings: ServiceSettings,
        new_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self.holds = holds
        self.writer = writer
        self.settings = settings
        self.new_id = new_id
        self.clock = clock
        self._principal_of = principal_of
        self._prices = prices

    async def principal(self, payer: Payer, *, stale: bool = False, usable: bool = True) -> Principal:
        """Return the principal of an account, or of its key: one that is revoked or expired where it need not be
        `usable`. Raises `UnknownAccount` and `DatabaseError`."""
        found = await self._principal_of(payer, stale)
        if found is None or (usable and not found.usable_key(self.clock())):
            raise unknown(payer)
        return found

    def charge(self, measure: Measure, principal: Principal, at_s: float | None = None) -> Charge:
        """Return what a measure costs, now or at a Unix time. Raises `BadMeasure` and `MeterNotPriced`."""
        at_s = self.clock() if at_s is None else at_s
        charge = charge_of(measure, self._prices(), principal.plan.markup_scaled, at_s)
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


class Metering:
    """Checks, debits and usage."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def check(self, payer: Payer, measure: Measure) -> tuple[int, int]:
        """Return what a hold of this would take, and what there is to spend, in nano-USD, if it is granted now. Raises
        `NotAdmitted`, `Busy`, `UnknownAccount`, and what pricing raises."""
        desk = self._desk
        principal = await desk.principal(payer)
        charge = desk.charge(measure, principal)
        if not desk.may_pay(principal):
            refuse(principal, None, charge)
        debit = charge.debit(desk.new_id(), principal, DEBITS, None, int(desk.clock() * 1000))
        async with self._opened(payer, principal, charge, debit) as decision:
            if isinstance(decision, Hold):
                return charge.charged_nano, decision.available_nano + charge.charged_nano
        refuse(principal, decision, charge)

    async def debit(self, payer: Payer, event_id: str, measure: Measure) -> Recorded:
        """Charge an account now, if it has room for it. Raises as `check`, and `EventConflict`, `EventRefused`."""
        desk = self._desk
        principal = await desk.principal(payer, usable=False)
        claim = Claim(payer.account_id, event_id, digest_of("debit", measure, *payer.key), "")
        try:
            charge = desk.charge(measure, principal)
        except (BadMeasure, MeterNotPriced) as error:
            return await desk.recorded(claim, error)
        if not principal.usable_key(desk.clock()):
            return await desk.recorded(claim, unknown(payer))
        if not desk.may_pay(principal):
            return await desk.known(claim, principal, None, charge)
        debit = charge.debit(desk.new_id(), principal, DEBITS, event_id, int(desk.clock() * 1000))
        async with self._opened(payer, principal, charge, debit) as decision:
            if isinstance(decision, Hold):
                debit = msgspec.structs.replace(debit, admitted_at_ms=decision.admitted_at_ms)
                return await self._written(decision, replace(claim, answer=self._answer(debit, measure)), debit)
        return await desk.known(claim, principal, decision, charge)

    async def _written(self, hold: Hold, claim: Claim, debit: Debit) -> Recorded:
        """Write a debit that is held, whether or not anybody waits for it. Its hold ends with it, or is given back
        where the event was known, or could not be written."""
        written, holds = self._desk.writer.write(claim, debit), self._desk.holds

        async def end() -> None:
            await asyncio.wait([written])
            if written.exception() is None and not written.result().replayed:
                holds.written(hold)

        holds.hand_over(hold, end())
        return await asyncio.shield(written)

    async def record(self, payer: Payer, event_id: str, measure: Measure, at: datetime | None) -> Recorded:
        """Charge an account for what it has used, whatever its balance, in the windows of that time. Raises as `debit`
        but for `NotAdmitted`, and `BadMeasure` for a time out of bounds."""
        desk = self._desk
        principal = await desk.principal(payer, usable=False)
        now_s = desk.clock()
        at_s = now_s if at is None else at.timestamp()
        digest = digest_of("usage", measure, None if at is None else int(at_s * 1000), *payer.key)
        claim = Claim(payer.account_id, event_id, digest, "")
        if not now_s - MOST_BACK_S <= at_s <= now_s + MOST_AHEAD_S:
            return await desk.recorded(claim, BadMeasure("time is at most 35 days back and 5 minutes ahead.", "time"))
        at_s = min(at_s, now_s)
        try:
            charge = desk.charge(measure, principal, at_s)
        except (BadMeasure, MeterNotPriced) as error:
            return await desk.recorded(claim, error)
        debit = charge.debit(desk.new_id(), principal, USAGE, event_id, int(at_s * 1000))
        return await asyncio.shield(desk.writer.write(replace(claim, answer=self._answer(debit, measure)), debit))

    def _opened(self, payer: Payer, principal: Principal, charge: Charge, debit: Debit) -> Opening:
        measure = charge.measure
        # Should this process die nothing was debited, whatever is charged for holds of requests: the caller asks again.
        nothing = Charge(measure, Usage(), 0, 0).debit(
            debit.request_id, principal, DEBITS, debit.client_request_id, debit.admitted_at_ms
        )
        return self._desk.holds.open(self._desk.request(payer, principal, charge, nothing))

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
        shape = DebitShape.of_debit(fields, debit.charged_nano, self._desk.settings.credits_per_usd)
        return msgspec.json.encode(shape).decode()
