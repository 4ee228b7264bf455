"""Coupons: codes that operators give out, each of which is credit for an account, once.

This file owns that a coupon is redeemed once by an account, by one account of whoever owns several, and by no more
accounts than it is for, whoever tries at the same time; that codes are stored as digests; and that an account which
guesses has to wait, and a network from which many do, too.

CouponError
+-- CouponNotFound   no coupon has this id or code
+-- CouponRefused    the coupon is over, used up, disabled, or can't be made so
+-- CouponUsed       the account has redeemed it, or the code is another coupon's
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

from billing import audit
from billing.accounts.grants import PROMOTIONS, Entry, GrantResult, Terms
from billing.database.connection import Connection, Database, Row, UniqueViolation, queries
from billing.errors import MetergateError
from billing.money import DEFAULT_PRIORITY, format_usd
from billing.pages import BEFORE_ALL, Page, page_of
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.accounts.grants import Grants
    from billing.change_notifier import ChangeNotifier

ID_PREFIX: Final = "cpn_"
# Of the idempotency keys of these grants: `COUPON:ACCOUNT`.
SCOPE: Final = "coupons"
# After so many wrong codes from one network, by however many accounts, the next one has to wait.
OF_A_NETWORK: Final = 30
INSTEAD: Final = "ask whoever gave you the code"
LEAST_CODE: Final = 6
MOST_CODE: Final = 64
# Without characters that are read as others.
_ALPHABET: Final = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
_PARTS, _PART = 4, 4
_CODE: Final = re.compile(rf"[A-Z0-9]{{{LEAST_CODE},{MOST_CODE}}}", re.ASCII)
_FILLING: Final = re.compile(r"[\s-]+")

_query = queries("billing.payments")


class CouponError(MetergateError):
    """What was asked of a coupon can't be done. The message is fit for a reader."""


class CouponNotFound(CouponError):
    """No coupon has this id or code."""

    kind = "not_found"


class CouponRefused(CouponError):
    """The coupon is over, used up or disabled; or its code can't be one; or the account is closed."""

    kind, field = "invalid", "code"


class CouponUsed(CouponError):
    """The account has redeemed the coupon; or another coupon has the code."""

    kind, field = "conflict", "code"


class Tries(Protocol):
    """Counts wrong codes (`identity.codes.Codes`)."""

    async def take_try(self, subject: str, instead: str, most: int | None = None) -> None: ...

    async def undo_try(self, subject: str, most: int) -> None: ...

    async def forgive(self, subject: str) -> None: ...


@dataclass(frozen=True, slots=True)
class NewCoupon:
    """A coupon to make: `code` None: one is made up. Its credit lasts for `credit_days`, and it may be redeemed until
    `expires_at` by `most_redemptions` accounts; None: without a bound."""

    name: str
    amount_nano: int
    code: str | None = None
    priority: int = DEFAULT_PRIORITY
    credit_days: int | None = None
    expires_at: datetime | None = None
    most_redemptions: int | None = None


@dataclass(frozen=True, slots=True)
class Coupon:
    """A row of coupons."""

    id: str
    name: str
    amount_nano: int
    priority: int
    credit_days: int | None
    expires_at: datetime | None
    most_redemptions: int | None
    redemptions: int
    created_at: datetime
    disabled_at: datetime | None

    def why_refused(self, now: datetime) -> str | None:
        """Return why nobody can redeem it; None: it can be."""
        if self.disabled_at is not None:
            return "This coupon is no longer valid."
        if self.expires_at is not None and self.expires_at <= now:
            return f"This coupon was valid until {rfc3339(self.expires_at)}."
        if self.most_redemptions is not None and self.redemptions >= self.most_redemptions:
            return "This coupon has been redeemed as often as it can be."
        return None

    def terms(self, now: datetime) -> Terms:
        """Return the terms of its credit, redeemed now."""
        expires_at = None if self.credit_days is None else now + timedelta(days=self.credit_days)
        return Terms(self.priority, promotional=True, expires_at=expires_at)


@dataclass(frozen=True, slots=True)
class Redeemed:
    """The result of a redemption."""

    coupon: Coupon
    grant: GrantResult
    terms: Terms


@dataclass
class Coupons:
    """Makes, lists and redeems coupons. `new_id` makes ULIDs, `now` gives an aware time, `choice` picks a character at
    random. Methods raise `CouponError` and `DatabaseError`."""

    database: Database
    grants: Grants
    effects: ChangeNotifier
    tries: Tries
    new_id: Callable[[], str]
    now: Callable[[], datetime]
    choice: Callable[[str], str] = secrets.choice

    async def create(self, new: NewCoupon, *, actor: audit.Actor = audit.ADMIN) -> tuple[Coupon, str]:
        """Make a coupon; return it and its code, which can't be read again. Raises `CouponRefused`, `CouponUsed`."""
        made_up = "-".join("".join(self.choice(_ALPHABET) for _ in range(_PART)) for _ in range(_PARTS))
        code = new.code or made_up
        if _CODE.fullmatch(_plain(code)) is None:
            raise CouponRefused(f"A code has {LEAST_CODE} to {MOST_CODE} letters and digits; hyphens do not count.")
        coupon_id = ID_PREFIX + self.new_id()
        values = (new.amount_nano, new.priority, new.credit_days, new.expires_at, new.most_redemptions)
        try:
            async with self.database.transaction() as connection:
                row = await connection.fetchrow(_query("coupons_create"), coupon_id, new.name, _digest(code), *values)
                coupon = _coupon(row)
                after = {"name": coupon.name, "amount_usd": format_usd(coupon.amount_nano)}
                await audit.record(connection, actor, "coupon.create", coupon_id, None, after)
        except UniqueViolation as error:
            raise CouponUsed("Another coupon has this code: take another one.") from error
        return coupon, code

    async def page(self, limit: int, after: str | None = None) -> Page[Coupon]:
        """Return coupons, newest first; `after` is the id that ended the page before."""
        rows = await self.database.rows(_query("coupons_page"), after or BEFORE_ALL, limit + 1)
        return page_of([_coupon(row) for row in rows], limit, lambda coupon: coupon.id)

    async def disable(self, coupon_id: str, *, actor: audit.Actor = audit.ADMIN) -> Coupon:
        """Let a coupon be redeemed no more; what was redeemed stays. One that is disabled already stays so."""
        async with self.database.transaction() as connection:
            before = _coupon(await connection.fetchrow(_query("coupons_lock"), coupon_id, None))
            if before.disabled_at is not None:
                return before
            coupon = _coupon(await connection.fetchrow(_query("coupons_disable"), coupon_id))
            await audit.record(connection, actor, "coupon.disable", coupon_id, None, {"name": coupon.name})
        return coupon

    async def redeem(self, account_id: str, code: str, *, actor: audit.Actor) -> Redeemed:
        """Give an account the credit of the coupon with this code. Raises `CouponNotFound`, `CouponRefused`,
        `CouponUsed`, what `Grants.grant` raises, and what `tries` raises where too many wrong codes were shown."""
        subject, network = f"coupon:{account_id}", f"coupon from {actor.address}"
        await self.tries.take_try(subject, INSTEAD)
        if actor.address is not None:
            await self.tries.take_try(network, INSTEAD, OF_A_NETWORK)
        async with self.database.transaction() as connection:
            row = await connection.fetchrow(_query("coupons_lock"), None, _digest(code))
            redeemed = await self._redeem(connection, account_id, _coupon(row), actor)
        await self.tries.forgive(subject)
        if actor.address is not None:  # what others there have guessed stays counted
            await self.tries.undo_try(network, OF_A_NETWORK)
        await self.effects.balance_changed(account_id)
        return redeemed

    async def _redeem(self, connection: Connection, account_id: str, coupon: Coupon, actor: audit.Actor) -> Redeemed:
        now = self.now()
        used = await connection.fetchrow(_query("redemptions_at"), coupon.id, account_id)
        if used is not None:
            who = "This account" if used["account_id"] == account_id else "Another organization of its owner"
            raise CouponUsed(f"{who} already redeemed the coupon at {rfc3339(used['redeemed_at'])}.")
        refused = coupon.why_refused(now)
        if refused is not None:
            raise CouponRefused(refused)
        if await connection.fetchval(_query("account_status"), account_id) == "closed":
            raise CouponRefused("This account is closed: it could not spend the credit.")
        terms, key = coupon.terms(now), f"{coupon.id}:{account_id}"
        named = SCOPE, key, f"coupon {coupon.name}"
        entry = Entry(account_id, coupon.amount_nano, PROMOTIONS, "grant", *named, terms=terms)
        grant = await self.grants.record(connection, entry, actor)
        await connection.execute(_query("redemptions_add"), coupon.id, account_id, grant.transfer_id, actor.name)
        return Redeemed(coupon, grant, terms)


def _plain(code: str) -> str:
    """Return a code as it is compared: in capitals, without spaces and hyphens."""
    return _FILLING.sub("", code).upper()


def _digest(code: str) -> bytes:
    return hashlib.sha256(_plain(code).encode("utf-8", "replace")).digest()


def _coupon(row: Row | None) -> Coupon:
    if row is None:
        raise CouponNotFound("There is no such coupon: check the code.")
    return Coupon(**{name: row[name] for name in Coupon.__slots__})
