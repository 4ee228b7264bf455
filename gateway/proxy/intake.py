"""From an exchange to its body and what that says: read within bounds, and parsed.

This file owns what a client's body may cost before anything is held for it. A small one that came with its head is
parsed at once. Any other counts among the bytes that are in memory (`gateway.server.bodies`), and one above
`large_body_bytes` is read on only where its account can pay for something at all, and parsed off the event loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from billing.effects import Effects
from billing.principals import Principal
from gateway.dialects.base import BadRequest, Dialect, ParsedRequest
from gateway.proxy.routing import Router
from gateway.server import limit_refusals, refusals
from gateway.server.bodies import Bodies, Kept, TooManyBytes
from gateway.server.exchange import BadBody, BodyTooLarge, Exchange
from gateway.server.refusals import Links, Refuse

PROXY_SCOPE: Final = "llm:proxy"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeRules:
    """Bounds of a body: decoded bytes, seconds to send it; and the seconds that an account past due may go on."""

    max_body_bytes: int
    upload_timeout_s: float
    grace_s: float


class Intake:
    """Reads and parses the bodies of metered requests."""

    def __init__(
        self,
        bodies: Bodies,
        dialect: Dialect,
        effects: Effects,
        router: Router,
        links: Links,
        rules: IntakeRules,
        clock: Callable[[], float],
    ) -> None:
        self._bodies = bodies
        self._large_bytes = bodies.rules.large_bytes
        self._dialect = dialect
        self._effects = effects
        self._router = router
        self._links = links
        self._rules = rules
        self._clock = clock

    def here(self, exchange: Exchange) -> bytes | None:
        try:
            return exchange.here(self._rules.max_body_bytes)
        except BodyTooLarge as error:
            raise Refuse(refusals.too_large(self._rules.max_body_bytes)) from error

    async def slowly(
        self, exchange: Exchange, principal: Principal, kept: Kept, body: bytes | None
    ) -> tuple[bytes, ParsedRequest]:
        """A body that did not come with its head, or is large, and what it says. Raises `Refuse`."""
        body = await self._arriving(exchange, principal, kept, body)
        if len(body) <= self._large_bytes:
            return body, self.parse(exchange.endpoint, body)
        return body, await self._bodies.apart(principal.account_id, self.parse, exchange.endpoint, body)

    async def _arriving(self, exchange: Exchange, principal: Principal, kept: Kept, body: bytes | None) -> bytes:
        """A body that did not come with its head, or is large: read within the bounds of what may be in memory, and not
        on once it is large where its account can't pay for it whatever it says."""
        limit_bytes = self._rules.max_body_bytes

        async def watch(size_bytes: int) -> None:
            kept.grow(size_bytes)
            await look(size_bytes)

        async def look(size_bytes: int) -> None:
            if size_bytes > self._large_bytes and not kept.looked_at:
                kept.looked_at = True
                kept.fit(size_bytes)
                await self._refuse_hopeless(principal)

        try:
            if body is None and exchange.declared_bytes <= limit_bytes:
                await look(exchange.declared_bytes)
                body = await exchange.read(limit_bytes, self._rules.upload_timeout_s, watch)
            elif body is None:
                raise BodyTooLarge
            else:
                await watch(len(body))
        except TooManyBytes as error:
            raise Refuse(refusals.too_many_bytes(error.whose)) from error
        except BodyTooLarge as error:
            raise Refuse(refusals.too_large(limit_bytes)) from error
        except BadBody as error:
            raise Refuse(refusals.bad_request(str(error))) from error
        return body

    async def _refuse_hopeless(self, principal: Principal) -> None:
        """Refuse, before it is read, what would be refused whatever it says: a key without the scope, an account whose
        status does not let it spend, and one with nothing left, but where a model may be free. That it comes before the
        checks of the body is all that differs from a small body's answer."""
        if PROXY_SCOPE not in principal.scopes:
            raise Refuse(refusals.insufficient_scope(PROXY_SCOPE))
        may_pay = principal.may_pay(self._clock(), self._rules.grace_s)
        if may_pay and self._router.may_be_free:
            return
        live = await self._effects.live_balance(principal.account_id)
        available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
        spent = available_nano is not None and available_nano <= 0
        if not may_pay or spent:
            raise Refuse(limit_refusals.billing_required(principal, self._links, available_nano, None))

    def parse(self, endpoint: str, body: bytes) -> ParsedRequest:
        try:
            return self._dialect.parse(endpoint, body)
        except BadRequest as error:
            raise Refuse(refusals.bad_request(error.message, error.param)) from error
