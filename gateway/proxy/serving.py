"""What the courses of requests share: the parts that they ask, the settings that they follow, and what is made for a
hold.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from billing.holds.model import HoldRequest, Need
from billing.ledger.debits import encode_debit
from gateway.auth import secret_of
from gateway.dialects.body import BadRequest
from gateway.dialects.declared import DEFAULT_BETAS, Betas
from gateway.proxy.attempts import first_timeout_s
from gateway.proxy.context import FEATURE, RequestContext
from gateway.proxy.detached import Running
from gateway.proxy.intake import Intake
from gateway.proxy.outcomes import Outcomes, Unseen
from gateway.proxy.preparation import KnownHeaders, Preparation
from gateway.proxy.provider_request import prepare
from gateway.proxy.provider_tools import UnknownTools
from gateway.proxy.senders import Senders
from gateway.server import limit_refusals, refusals
from gateway.server.bodies import UNCOUNTED_BYTES, Bodies
from gateway.server.ids import Ulids
from gateway.server.refusals import Refusal, Refuse
from gateway.upstream.transport import HttpTransport

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.holds.api import Holds
    from billing.principals import Principal
    from gateway.auth import Authenticator
    from gateway.body_logs.recording import BodyLog
    from gateway.config.settings import Settings
    from gateway.metrics.registry import Metrics
    from gateway.proxy.background_jobs import BackgroundPoller
    from gateway.proxy.detached import Detached
    from gateway.proxy.provider_request import InThread
    from gateway.proxy.records import Records
    from gateway.proxy.routing import Router
    from gateway.proxy.settlement.settlements import Settlements
    from gateway.proxy.stored import StoredObjects
    from gateway.server.exchange import BodyTooLarge, Exchange
    from gateway.server.limit_refusals import Links
    from gateway.tokens import Tokenizer
    from gateway.tracing.exporter import Tracer
    from gateway.upstream.base import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingParts:
    """What courses are served with. `transports` are by provider name; `in_thread` runs off the event loop what takes
    time in proportion to a large body of an account."""

    settings: Settings
    holds: Holds
    keys: Authenticator
    effects: ChangeNotifier
    router: Router
    transports: Mapping[str, Transport]
    settlements: Settlements
    detached: Detached
    links: Links
    metrics: Metrics
    tokenizer: Tokenizer
    bodies: Bodies
    records: Records
    stored: StoredObjects
    poller: BackgroundPoller
    in_thread: InThread | None = None
    tracer: Tracer | None = None
    body_log: BodyLog | None = None


class Serving:
    """What all courses of one process have, made inside a running event loop. `wall_clock` is in Unix seconds, `clock`
    monotonic."""

    def __init__(
        self,
        parts: ServingParts,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings, defaults = parts.settings, parts.settings.defaults
        request = defaults.request
        self.holds = parts.holds
        keys = parts.keys
        self.known, self.cached, self.admit, self.authenticate = keys.known, keys.cached, keys.admit, keys.authenticate
        self.records, self.stored, self.poller = parts.records, parts.stored, parts.poller
        self.transports, self.settlements, self.detached = parts.transports, parts.settlements, parts.detached
        self.prompt = {name: each for name, each in parts.transports.items() if isinstance(each, HttpTransport)}
        """Transports that may send at once."""
        self.in_thread, self.tracer, self.body_log = parts.in_thread, parts.tracer, parts.body_log
        self.metrics = parts.metrics
        self.running = Running(request.max_request_s)
        self.outcomes = Outcomes(parts.settlements, parts.metrics, parts.records)
        self.unseen = Unseen(parts.settlements, parts.metrics, parts.records)
        self.attempts, self.estimate = defaults.attempts, defaults.estimate
        self.answer_bytes = request.upstream_answer_bytes
        self.tool_overrun_percent = round(request.tool_overrun * 100)
        self.first_timeout_s = first_timeout_s(defaults.attempts, defaults.upstream.upstream_timeout_s)
        self._effects = parts.effects
        self._router = parts.router
        self.links = links = parts.links
        self.keys_url = links.keys_url
        self.max_body_bytes = settings.proxy_max_body_bytes
        self._grace_s = settings.payment_grace_s
        self._charge_expired = request.expired_hold == "input"
        preparation = Preparation(
            parts.router,
            defaults.estimate,
            parts.bodies,
            parts.tokenizer,
            wall_clock,
            links=links,
            headers=KnownHeaders(Senders(request.session_headers), Betas(DEFAULT_BETAS, settings.betas)),
        )
        self.prepare, self.need, self._count = preparation.context, preparation.need, preparation.counted
        self.bodies = parts.bodies
        self.small_bytes = min(parts.bodies.large_bytes, UNCOUNTED_BYTES)
        self.unknown_tools = UnknownTools(parts.metrics, refuse=request.unknown_tools == "refuse")
        self.intake = Intake(parts.bodies, parts.effects, parts.router, links, settings, wall_clock)
        self.refuse_hopeless = self.intake.refuse_hopeless
        self._wall_clock = wall_clock
        self.clock = clock
        self.new_id = new_id or Ulids()
        loop = asyncio.get_running_loop()
        self.start, self.call_soon = loop.create_task, loop.call_soon

    def refusal_of(self, error: Refuse | BadRequest | BodyTooLarge) -> Refusal:
        """Return what a request is refused with."""
        match error:
            case Refuse():
                return error.refusal
            case BadRequest():
                return refusals.bad_request(error.message, error.param)
        return refusals.too_large(self.max_body_bytes)

    def count(self, refusal: Refusal) -> Refusal:
        """Return the same refusal, counted."""
        self.metrics.refusal(refusal.code)
        return refusal

    async def _counted_need(self, context: RequestContext, need: Need) -> tuple[Need, bytes] | None:
        """Return the need by its tokens, counted off the event loop, where that is less than the one by its bytes."""
        counted = await self._count(context)
        if counted is None or counted >= context.parsed.input_bound_tokens:
            return None
        less = self.need(context, counted)
        return (less, self.expired(context, less)) if less.input_tokens < need.input_tokens else None

    def expired(self, context: RequestContext, need: Need) -> bytes:
        """Return the debit that a hold becomes whose gateway dies, encoded. Where that is not charged it is the same
        for all requests of a key for a model at an endpoint, and so made once: the journal knows the request's id."""
        stored = context.parsed.stored
        background = stored is not None and stored.background  # whose work is paid when it is done, by any gateway
        if self._charge_expired and not background:
            return encode_debit(context.expired(need.input_tokens))
        made, kind = context.terms.uncharged, context.parsed.stream
        payload = made.get(kind)
        if payload is None:
            payload = made[kind] = encode_debit(context.uncharged())
        return payload

    async def check_paid(self, principal: Principal, need: Need) -> None:
        """Raise `Refuse` where the account's status does not let it spend."""
        if principal.may_pay(self._wall_clock(), self._grace_s):
            return
        live = await self._effects.live_balance(principal.account_id)
        available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
        required_nano = need.input_cost_nano + need.unit_nano * need.least_output
        raise Refuse(limit_refusals.billing_required(principal, self.links, available_nano, required_nano))

    async def _renewed(self, exchange: Exchange, context: RequestContext, *, stale: bool) -> HoldRequest | None:
        """Make a request anew by the key, account, plan and prices of now: None where they are those that it was made
        from. With `stale` the principal is read from Postgres. Raises `Refuse`, as when it came."""
        secret = secret_of(exchange)
        if stale:
            principal = await self.authenticate(secret, fresh=True)
        else:
            same_route = self._router.find(context.parsed.model, self._wall_clock()) == context.terms.route
            principal = await self.authenticate(secret)
            if same_route and (principal is context.principal or principal == context.principal):
                return None
        now = self.prepare(exchange, context.request_id, principal, context.parsed, context.body, context.started_s)
        context.principal, context.route, context.further = now.principal, now.route, now.further
        context.targets, context.target, context.facts, context.terms = now.targets, now.target, now.facts, now.terms
        context.tags, context.prepared = now.tags, None
        need = self.need(context)
        await self.check_paid(principal, need)
        return self.hold_request(exchange, context, need)

    def hold_request(self, exchange: Exchange, context: RequestContext, need: Need) -> HoldRequest:
        """Return what is asked for where that takes more than one question."""
        return HoldRequest(
            id=context.request_id,
            principal=context.principal,
            model=context.route.entry,
            feature=FEATURE,
            need=need,
            expired=self.expired(context, need),
            queue_s=context.principal.plan.admission_queue_s,
            meanwhile=partial(prepare, exchange, context),
            lesser=partial(self._counted_need, context),
            renew=partial(self._renewed, exchange, context),
        )
