"""A request's life in seven stops: route, authenticate, estimate, hold, forward, price, settle.

This file owns the order of the checks (401, 413, 400, 404, 403, not priced, 402, 429) and that nothing is sent upstream
before admission has said yes. The way from forward to settle is `gateway.proxy.forward`'s. Inside `holds.open` there is
no way out that leaves a hold behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from billing.holds.model import Hold, HoldRequest, Need, Unavailable
from billing.keys.secrets import secret_digest
from billing.ledger.debits import encode_debit
from billing.logs import subject
from gateway.auth import key_of
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.dialects.decoding import BadRequest
from gateway.proxy.context import FEATURE, RequestContext
from gateway.proxy.intake import Intake
from gateway.proxy.preparation import KnownHeaders, Preparation
from gateway.proxy.provider_request import prepare
from gateway.proxy.provider_tools import UnknownTools
from gateway.proxy.senders import Senders
from gateway.server import limit_refusals, refusals
from gateway.server.bodies import UNCOUNTED_BYTES, Bodies, Kept
from gateway.server.exchange import BodyTooLarge
from gateway.server.ids import Ulids
from gateway.server.refusals import Refusal, Refuse

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.holds.api import Holds
    from billing.principals import Principal
    from gateway.auth import Authenticator
    from gateway.config.settings import Settings
    from gateway.dialects.facts import ParsedRequest
    from gateway.metrics.registry import Metrics
    from gateway.proxy.background_jobs import BackgroundPoller
    from gateway.proxy.forward import Forwarder
    from gateway.proxy.records import Records
    from gateway.proxy.routing import Router
    from gateway.proxy.stored import StoredObjects
    from gateway.server.exchange import Exchange
    from gateway.server.limit_refusals import Links
    from gateway.tokens import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyParts:
    """What the proxy works with."""

    settings: Settings
    holds: Holds
    keys: Authenticator
    effects: ChangeNotifier
    router: Router
    forwarder: Forwarder
    links: Links
    metrics: Metrics
    tokenizer: Tokenizer
    bodies: Bodies
    records: Records
    stored: StoredObjects
    poller: BackgroundPoller


class Proxy:
    """The handler of the metered endpoints. `clock` is in Unix seconds."""

    def __init__(
        self, parts: ProxyParts, clock: Callable[[], float] = time.time, new_id: Callable[[], str] | None = None
    ) -> None:
        settings, request = parts.settings, parts.settings.defaults.request
        self._holds = parts.holds
        self._keys = keys = parts.keys
        self.known, self.cached, self.admit, self.authenticate = keys.known, keys.cached, keys.admit, keys.authenticate
        self._records = parts.records
        self._stored = parts.stored
        self._poller = parts.poller
        self._effects = parts.effects
        self._router = parts.router
        self._forwarder = parts.forwarder
        self._links = links = parts.links
        self.keys_url = links.keys_url
        self._max_body_bytes = settings.proxy_max_body_bytes
        self._grace_s = settings.payment_grace_s
        self._charge_expired = request.expired_hold == "input"
        self._metrics = parts.metrics
        preparation = Preparation(
            parts.router,
            settings.defaults.estimate,
            parts.bodies,
            parts.tokenizer,
            clock,
            links=links,
            headers=KnownHeaders(Senders(request.session_headers), Betas(DEFAULT_BETAS, settings.betas)),
        )
        self._prepare, self._need, self._count = preparation.context, preparation.need, preparation.counted
        self.bodies = parts.bodies
        self._large_bytes = parts.bodies.large_bytes
        self._small_bytes = min(self._large_bytes, UNCOUNTED_BYTES)
        self._unknown_tools = UnknownTools(parts.metrics, refuse=request.unknown_tools == "refuse")
        self._intake = Intake(parts.bodies, parts.effects, parts.router, links, settings, clock)
        self.refuse_hopeless = self._intake.refuse_hopeless
        self._clock = clock
        self.new_id = new_id or Ulids()

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request, or refuse it."""
        request_id, started_s = self.new_id(), time.monotonic()
        logged = subject()
        logged.request_id, logged.account_id = request_id, None
        kept: Kept | None = None
        principal: Principal | None = None
        parsed: ParsedRequest | None = None
        try:
            digest = exchange.key_digest
            principal = (self.known(digest) if digest is not None else None) or await self._shown(exchange)
            logged.account_id = principal.account_id
            if not exchange.claim(principal.account_id):
                raise Refuse(refusals.too_many_of_account())
            body = exchange.here(self._max_body_bytes)
            if body is not None and len(body) <= self._small_bytes:
                parsed = exchange.match.dialect.parse(exchange, body)
            else:
                kept = self.bodies.of(principal.account_id)
                body, parsed = await self._intake.slowly(exchange, principal, kept, body)
            if parsed.work.unknown_tools:
                self._unknown_tools.note(parsed.work.unknown_tools)
            if parsed.stored is not None:
                parsed = await self._stored.resolve(exchange.match, principal, parsed)
                if parsed.stored is not None and parsed.stored.background:
                    await self._poller.check_room(principal.account_id)
                if parsed.stored is not None and parsed.stream and exchange.match.endpoint.free:
                    await self._poller.note_streamed(parsed.stored)
            context = self._prepare(exchange, request_id, principal, parsed, body, started_s)
            need = self._need(context)
            if principal.status != "active":
                await self._check_paid(principal, need)
            await self._meter(exchange, context, need)
        except (Refuse, BadRequest, BodyTooLarge) as error:
            self._refuse(exchange, request_id, principal, parsed, self._refusal_of(error), started_s)
        except Exception:
            logger.exception("request %s failed", request_id)
            if exchange.begun:
                exchange.abort()  # a refusal in the middle of an answer would be taken for a part of it
            else:
                self._refuse(exchange, request_id, principal, parsed, refusals.unavailable(), started_s)
        finally:
            if kept is not None:
                kept.release()

    async def _shown(self, exchange: Exchange) -> Principal:
        """Return whose key a request shows. Raises `Refuse`."""
        secret = _secret_of(exchange)
        principal = self.cached(secret) or await self.admit(secret, exchange.peer, exchange.headers)
        if secret is not None:
            exchange.remember(secret_digest(secret))
        return principal

    def _refusal_of(self, error: Refuse | BadRequest | BodyTooLarge) -> Refusal:
        match error:
            case Refuse():
                return error.refusal
            case BadRequest():
                return refusals.bad_request(error.message, error.param)
        return refusals.too_large(self._max_body_bytes)

    def _refuse(
        self,
        exchange: Exchange,
        request_id: str,
        principal: Principal | None,
        parsed: ParsedRequest | None,
        refusal: Refusal,
        started_s: float,
    ) -> None:
        self.count(refusal).answer(exchange, request_id)
        self._records.refused(request_id, exchange.match.endpoint.path, principal, parsed, refusal, started_s)

    def count(self, refusal: Refusal) -> Refusal:
        """Return the same refusal, counted."""
        self._metrics.refusal(refusal.code)
        return refusal

    async def _counted_need(self, context: RequestContext, need: Need) -> tuple[Need, bytes] | None:
        """Return the need by its tokens, counted off the event loop, where that is less than the one by its bytes."""
        counted = await self._count(context)
        if counted is None or counted >= context.parsed.input_bound_tokens:
            return None
        less = self._need(context, counted)
        return (less, self._expired(context, less)) if less.input_tokens < need.input_tokens else None

    def _expired(self, context: RequestContext, need: Need) -> bytes:
        """Return the debit that a hold becomes whose gateway dies, encoded. Where that is not charged it is the same
        for all requests of a key to an endpoint of a model, and so made once: the journal knows the request's id."""
        stored = context.parsed.stored
        background = stored is not None and stored.background  # whose work is paid when it is done, by any gateway
        if self._charge_expired and not background:
            return encode_debit(context.expired(need.input_tokens))
        made, kind = context.terms.uncharged, (context.endpoint, context.parsed.stream)
        payload = made.get(kind)
        if payload is None:
            payload = made[kind] = encode_debit(context.uncharged())
        return payload

    async def _check_paid(self, principal: Principal, need: Need) -> None:
        """Raise `Refuse` where the account's status does not let it spend."""
        if principal.may_pay(self._clock(), self._grace_s):
            return
        live = await self._effects.live_balance(principal.account_id)
        available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
        required_nano = need.input_cost_nano + need.unit_nano * need.least_output
        raise Refuse(limit_refusals.billing_required(principal, self._links, available_nano, required_nano))

    async def _renewed(self, exchange: Exchange, context: RequestContext, *, stale: bool) -> HoldRequest | None:
        """Make a request anew by the key, account, plan and prices of now: None where they are those that it was made
        from. With `stale` the principal is read from Postgres. Raises `Refuse`, as when it came."""
        secret = _secret_of(exchange)
        if stale:
            principal = await self.authenticate(secret, fresh=True)
        else:
            same_route = self._router.find(context.parsed.model, self._clock()) == context.terms.route
            principal = await self.authenticate(secret)
            if same_route and (principal is context.principal or principal == context.principal):
                return None
        now = self._prepare(exchange, context.request_id, principal, context.parsed, context.body, context.started_s)
        context.principal, context.route, context.further = now.principal, now.route, now.further
        context.targets, context.target, context.terms = now.targets, now.target, now.terms
        context.tags, context.prepared = now.tags, None
        need = self._need(context)
        await self._check_paid(principal, need)
        return self._hold_request(exchange, context, need)

    def _hold_request(self, exchange: Exchange, context: RequestContext, need: Need) -> HoldRequest:
        return HoldRequest(
            id=context.request_id,
            principal=context.principal,
            model=context.route.entry,
            feature=FEATURE,
            need=need,
            expired=self._expired(context, need),
            queue_s=context.principal.plan.admission_queue_s,
            meanwhile=partial(prepare, exchange, context),
            lesser=partial(self._counted_need, context),
            renew=partial(self._renewed, exchange, context),
        )

    async def _meter(self, exchange: Exchange, context: RequestContext, need: Need) -> None:
        """Hold, forward, settle. Where only running requests keep it out it waits for them, for as long as its plan
        says. Raises `Refuse`."""
        asked_s = time.monotonic()
        async with self._holds.open(self._hold_request(exchange, context, need)) as decision:
            if isinstance(decision, Hold):
                self._metrics.hold_latency(time.monotonic() - asked_s - decision.waited_s)
                await self._forwarder.forward(exchange, context, decision)
                return
        if isinstance(decision, Unavailable):
            logger.debug("request %s was not admitted: %s", context.request_id, decision.reason)
            raise Refuse(refusals.unavailable())
        max_field = context.sender.output_setting(next(iter(context.parsed.max_fields), None))
        raise Refuse(limit_refusals.of_decision(decision, context.principal, self._links, max_field))


def _secret_of(exchange: Exchange) -> str | None:
    """Return the key that a request shows. Raises `Refuse` where there are two that differ."""
    return key_of(exchange.all_headers(), exchange.path, exchange.match.dialect)
