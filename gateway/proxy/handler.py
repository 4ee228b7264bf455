"""A request's life in seven stops: route, authenticate, estimate, hold, forward, price, settle.

This file owns the order of the checks (401, 413, 400, 404, 403, not priced, 402, 429) and that nothing is sent upstream
before admission has said yes. The way from forward to settle is `gateway.proxy.forward`'s. Inside `holds.open` there is
no way out that leaves a hold behind.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from multidict import MultiMapping, istr

from billing.attempts import Attempts, TooManyAttempts
from billing.database.connection import DatabaseError
from billing.effects import Effects
from billing.holds.cache import PrincipalCache, recognised
from billing.holds.decision import Need, NeedTooLarge, Reload, Unavailable
from billing.holds.hold import Hold
from billing.holds.service import Holds
from billing.keys.presented import DifferentKeys, presented_key
from billing.keys.secrets import secret_digest, well_formed
from billing.ledger.debits import encode_debit
from billing.principals import Principal
from gateway.dialects.base import NO_PARTS, Dialect, ParsedRequest
from gateway.dialects.openai.texts import input_texts
from gateway.metrics.registry import Metrics
from gateway.proxy.context import FEATURE, RequestContext, shown_id
from gateway.proxy.estimate import EstimateRules, NotPriced, worst_case
from gateway.proxy.forward import Forwarder
from gateway.proxy.ids import Ulids
from gateway.proxy.intake import PROXY_SCOPE, Intake, IntakeRules
from gateway.proxy.records import Records
from gateway.proxy.routing import Route, Router
from gateway.proxy.terms import Terms, keep_terms, kept_terms
from gateway.proxy.tokens import PIECE_CHARACTERS, Tokenizer
from gateway.server import limit_refusals, refusals
from gateway.server.bodies import Bodies, Kept
from gateway.server.exchange import Exchange
from gateway.server.metering_headers import REQUEST_ID
from gateway.server.refusals import Links, Refusal, Refuse

logger = logging.getLogger(__name__)

CLIENT_REQUEST_ID: Final = istr(REQUEST_ID)
INCLUDE_COST: Final = istr("x-metergate-include-cost")
"""Names that are lowered once, and not with every look-up."""
RELOADS: Final = 2
RELOAD_PAUSE_S: Final = 0.001
RELOAD_PAUSE_MAX_S: Final = 0.05
CUT_TOKENS: Final = 16
"""More than what cutting a long text into pieces can hide of its tokens, for each cut; at most two were ever found."""
TURN_CHARACTERS: Final = 131_072
"""Of texts that are counted in one turn of a thread: about 25 ms."""
MAX_COUNTED_BYTES: Final = 4 << 20
"""A body above this is held by its bytes alone: counting its tokens would keep a core busy for a second."""


@contextmanager
def attempts_refused() -> Iterator[None]:
    """Raises `Refuse` where too many wrong keys have been shown."""
    try:
        yield
    except TooManyAttempts as error:
        raise Refuse(refusals.too_many_attempts(error)) from error


def shown_key(headers: MultiMapping[str]) -> str | None:
    """The API key that a request presents, None without one. Raises `Refuse` where there are two that differ."""
    try:
        return presented_key(headers)
    except DifferentKeys as error:
        raise Refuse(refusals.different_keys(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRules(IntakeRules):
    """What the proxy follows of the configuration."""

    estimate: EstimateRules
    admission_wait_s: float
    """How long a principal is read anew that changes again and again."""
    lookup_wait_s: float
    """For a key that is not known to be looked up, with those before it."""
    charge_expired: bool = False
    """Whether a hold whose gateway died is charged at the estimate of its input."""


class Reloads:
    """How often a request has its principal read anew: RELOADS times, and more often up to a monotonic time in seconds.

    The first is at once; then come pauses, each longer than the one before, so that a key that changes all the time,
    or a Redis that is ahead of its Postgres, costs some forty look-ups and not a thousand.
    """

    __slots__ = ("_count", "_pause_s", "_until_s")

    def __init__(self, until_s: float) -> None:
        self._until_s = until_s
        self._count = 0
        self._pause_s = 0.0

    async def may_go_on(self) -> bool:
        """Whether to read it once more, after the pause that this costs."""
        self._count += 1
        if self._count > RELOADS and time.monotonic() >= self._until_s:
            return False
        if self._count > 1:
            self._pause_s = min(2 * self._pause_s + RELOAD_PAUSE_S, RELOAD_PAUSE_MAX_S)
            await asyncio.sleep(self._pause_s)
        return True


class Proxy:
    """The handler of the metered endpoints."""

    def __init__(
        self,
        holds: Holds,
        cache: PrincipalCache,
        effects: Effects,
        router: Router,
        forwarder: Forwarder,
        dialect: Dialect,
        links: Links,
        rules: ProxyRules,
        metrics: Metrics,
        tokenizer: Tokenizer,
        bodies: Bodies,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] | None = None,
        *,
        attempts: Attempts,
        records: Records,
    ) -> None:
        self._holds = holds
        self._cache = cache
        self._attempts = attempts
        self._records = records
        self._effects = effects
        self._router = router
        self._forwarder = forwarder
        self._dialect = dialect
        self._links = links
        self._rules = rules
        self._metrics = metrics
        self._tokenizer = tokenizer
        self._bodies = bodies
        self._large_bytes = bodies.rules.large_bytes
        self._intake = Intake(bodies, dialect, effects, router, links, rules, clock)
        self._clock = clock
        self.new_id = new_id or Ulids()

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request, or refuse it."""
        request_id, started_s = self.new_id(), time.monotonic()
        kept: Kept | None = None
        principal: Principal | None = None
        parsed: ParsedRequest | None = None
        try:
            secret = shown_key(exchange.headers)
            principal = self.cached(secret) or await self.admit(secret, exchange.peer, exchange.headers)
            body = self._intake.here(exchange)
            if body is not None and len(body) <= self._large_bytes:
                parsed = self._intake.parse(exchange.endpoint, body)
            else:
                exchange.account = principal.account_id
                kept = self._bodies.of(principal.account_id)
                body, parsed = await self._intake.slowly(exchange, principal, kept, body)
            begun_s, reloads = time.monotonic(), None
            while True:
                context = self._prepare(exchange, request_id, principal, parsed, body, started_s)
                need = self._need(context)
                if principal.status != "active" and not principal.may_pay(self._clock(), self._rules.grace_s):
                    await self._refuse_unpaid(principal, need)
                if await self._meter(exchange, context, need, begun_s) is None:
                    return
                reloads = reloads or Reloads(begun_s + self._rules.admission_wait_s)
                if not await reloads.may_go_on():
                    raise Refuse(refusals.unavailable())
                principal = await self.authenticate(secret, fresh=True)
        except Refuse as refused:
            refusal = self.count(refused.refusal)
            refusal.answer(exchange, request_id)
            self._records.refused(request_id, exchange.endpoint, principal, parsed, refusal, started_s)
        except Exception:
            logger.exception("request %s failed", request_id)
            if exchange.begun:
                exchange.abort()  # a refusal in the middle of an answer would be taken for a part of it
            else:
                refusal = self.count(refusals.unavailable())
                refusal.answer(exchange, request_id)
                self._records.refused(request_id, exchange.endpoint, principal, parsed, refusal, started_s)
        finally:
            if kept is not None:
                kept.release()

    def count(self, refusal: Refusal) -> Refusal:
        """The same refusal, counted."""
        self._metrics.refusal(refusal.code)
        return refusal

    async def _counted_need(self, context: RequestContext, need: Need) -> tuple[Need, bytes] | None:
        """The bytes did not fit: the need by its tokens, counted off the event loop, where that is less."""
        counted = await self._count_input(context)
        if counted is None or counted * context.parsed.choices >= need.input_tokens:
            return None
        need = self._need(context, counted)
        return need, self._expired(context, need)

    def _expired(self, context: RequestContext, need: Need) -> bytes:
        """The debit that a hold becomes whose gateway dies, encoded."""
        charged = self._rules.charge_expired
        return encode_debit(context.expired(need.input_tokens)) if charged else self._uncharged(context)

    async def _count_input(self, context: RequestContext) -> int | None:
        """As `counted_tokens`, where the model's own vocabulary is known and all of its input is text in the body."""
        parsed, body = context.parsed, context.body
        countable = context.route.exact_vocabulary and parsed.parts is NO_PARTS and not parsed.unbounded_input
        if not countable or not self._rules.estimate.strict or len(body) > MAX_COUNTED_BYTES:
            return None
        account_id = context.principal.account_id
        large = len(body) > self._large_bytes
        texts = await self._bodies.apart(account_id, input_texts, body) if large else input_texts(body)
        return await counted_tokens(len(body), texts, self._tokenizer, context.route.vocabulary, account_id)

    def cached(self, secret: str | None) -> Principal | None:
        """The principal of a key where it is known and usable."""
        principal = self._cache.peek(secret_digest(secret)) if secret is not None else None
        if principal is None or not principal.usable_key(self._clock()):
            return None
        self._cache.used[principal.key_id] = None
        return principal

    async def admit(self, secret: str | None, peer: str, headers: MultiMapping[str]) -> Principal:
        """As `authenticate`, for a client at `peer`: a key that is not known is an attempt. Raises `Refuse`."""
        known = secret is not None and recognised(self._cache, secret)
        if secret is None or known:
            return await self.authenticate(secret)

        async def check() -> Principal | None:
            try:
                return await self.authenticate(secret)
            except Refuse as refused:
                if refused.refusal.status == 401:
                    return None
                raise

        try:
            async with asyncio.timeout(self._rules.lookup_wait_s):
                with attempts_refused():
                    principal = await self._attempts.attempt(peer, headers, check, known_wrong=known is False)
        except TimeoutError as error:
            raise Refuse(refusals.unavailable()) from error
        if principal is None:
            raise Refuse(refusals.invalid_key())
        return principal

    async def authenticate(self, secret: str | None, *, fresh: bool = False) -> Principal:
        """The principal of a key, read anew with `fresh`. Raises `Refuse`."""
        if secret is None:
            raise Refuse(refusals.invalid_key())
        principal = None if fresh else self.cached(secret)
        if principal is not None:
            return principal
        if not well_formed(secret):
            raise Refuse(refusals.invalid_key())
        digest = secret_digest(secret)
        try:
            principal = await (self._cache.reload(digest) if fresh else self._cache.get(digest))
        except DatabaseError as error:
            raise Refuse(refusals.unavailable()) from error
        if principal is None or not principal.usable_key(self._clock()):
            raise Refuse(refusals.invalid_key())
        self._cache.used[principal.key_id] = None
        return principal

    def _prepare(
        self,
        exchange: Exchange,
        request_id: str,
        principal: Principal,
        parsed: ParsedRequest,
        body: bytes,
        started_s: float,
    ) -> RequestContext:
        route = self._router.find(parsed.model, self._clock())
        if route is None:
            raise Refuse(refusals.model_not_found(parsed.model))
        terms = kept_terms(principal, parsed.model, FEATURE, route)
        if terms is None:
            self._check_allowed(principal, route)
            terms = keep_terms(principal, parsed.model, FEATURE, Terms(principal, route, self._rules.estimate))
        if parsed.work.models:
            route = self._with_others(principal, route, parsed.work.models)
        headers = exchange.headers
        said_id, include_cost = headers.get(CLIENT_REQUEST_ID), headers.get(INCLUDE_COST)
        return RequestContext(
            request_id=request_id,
            endpoint=exchange.endpoint,
            principal=principal,
            parsed=parsed,
            route=route,
            body=body,
            started_s=started_s,
            client_request_id=shown_id(said_id) if said_id else None,
            include_cost=include_cost is not None and include_cost.lower() == "true",
            strict=self._rules.estimate.strict,
            terms=terms,
        )

    def _uncharged(self, context: RequestContext) -> bytes:
        """What a hold becomes whose gateway dies, where that is not charged: the same for all requests of a key to an
        endpoint of a model, and so made once. The journal knows the request's id."""
        made, kind = context.terms.uncharged, (context.endpoint, context.parsed.stream)
        payload = made.get(kind)
        if payload is None:
            payload = made[kind] = encode_debit(context.uncharged())
        return payload

    def _check_allowed(self, principal: Principal, route: Route) -> None:
        if PROXY_SCOPE not in principal.scopes:
            raise Refuse(refusals.insufficient_scope(PROXY_SCOPE))
        if not principal.allows_model(route.entry):
            raise Refuse(refusals.model_not_allowed(route.entry))

    def _with_others(self, principal: Principal, route: Route, models: tuple[str, ...]) -> Route:
        """The route with the other models that a request names; the key must be allowed them, and each has a price."""
        route, entries, unpriced = self._router.with_others(route, models, self._clock())
        own = principal.limits_for(route.entry, FEATURE)
        for entry in entries:
            if not principal.allows_model(entry):
                raise Refuse(refusals.model_not_allowed(entry))
            limits = principal.limits_for(entry, FEATURE)
            if not {*limits.account, *limits.key} <= {*own.account, *own.key}:  # the hold would not count in them
                message = f"The model '{entry}' has quotas of its own here: ask for it by itself."
                raise Refuse(refusals.bad_request(message, "models"))
        for model in unpriced:
            raise Refuse(refusals.model_not_priced(f"The model `{model}`, which the request names, has no price here"))
        return route

    def _need(self, context: RequestContext, counted: int | None = None) -> Need:
        route, terms, parsed = context.route, context.terms, context.parsed
        try:
            if terms.plain is not None and route is terms.route and (need := terms.plain.need(parsed, counted)):
                return need
            return worst_case(parsed, route, terms.markup_scaled, self._rules.estimate, counted)
        except NotPriced as error:
            raise Refuse(refusals.model_not_priced(str(error))) from error
        except NeedTooLarge as error:
            raise Refuse(refusals.bad_request(f"This request is too large: {error}.", "max_tokens")) from error

    async def _refuse_unpaid(self, principal: Principal, need: Need) -> None:
        live = await self._effects.live_balance(principal.account_id)
        available_nano = None if live is None else live.balance_nano + principal.credit_limit_nano
        required_nano = need.input_cost_nano + need.unit_nano * need.least_output
        raise Refuse(limit_refusals.billing_required(principal, self._links, available_nano, required_nano))

    async def _meter(self, exchange: Exchange, context: RequestContext, need: Need, begun_s: float) -> Reload | None:
        """Hold, forward, settle: None once it is answered; else that the principal must be read anew. Where only
        running requests keep it out it waits for them, from `begun_s` for as long as its plan says. Raises `Refuse`."""
        principal, route = context.principal, context.route
        asked_s, queue_s = time.monotonic(), principal.plan.admission_queue_s
        opening = self._holds.open(
            *(context.request_id, principal, route.entry, FEATURE, need, self._expired(context, need)),
            meanwhile=partial(self._forwarder.prepare, exchange, context),
            lesser=partial(self._counted_need, context, need),
            queue_s=queue_s and begun_s + queue_s - asked_s,
        )
        async with opening as decision:
            if isinstance(decision, Hold):
                self._metrics.hold_latency(time.monotonic() - asked_s - decision.waited_s)
                await self._forwarder.forward(exchange, context, decision)
                return None
        if isinstance(decision, Unavailable):
            logger.debug("request %s was not admitted: %s", context.request_id, decision.reason)
            raise Refuse(refusals.unavailable())
        if isinstance(decision, Reload):
            return decision
        raise Refuse(limit_refusals.of_decision(decision, principal, self._links))


async def counted_tokens(
    body_bytes: int, texts: Sequence[tuple[str, int]], tokenizer: Tokenizer, vocabulary: str, account_id: str = ""
) -> int:
    """The most input tokens of a body, below its bytes where it has long texts: those that stand alone are counted, and
    the rest of the JSON, which is more than what a chat template adds to a message, stays at its bytes.

    Long texts are counted in several turns of their account: others have theirs in between.
    """
    counted = cuts = 0
    for turn in _turns([text for text, _ in texts]):
        counted += await tokenizer.count_chat_messages_off_loop(turn, vocabulary, account_id)
        cuts += 1 + sum(len(each["content"]) // PIECE_CHARACTERS for each in turn)
    cuts = max(0, cuts - 1)  # between two turns a text may be cut
    return body_bytes - sum(size_bytes for _, size_bytes in texts) + counted + cuts * CUT_TOKENS


def _turns(texts: Sequence[str]) -> Iterator[list[dict[str, str]]]:
    """Messages of these texts, in lists of at most TURN_CHARACTERS together; a longer text is cut."""
    turn: list[dict[str, str]] = []
    left = TURN_CHARACTERS
    for text in texts:
        for start in range(0, max(1, len(text)), TURN_CHARACTERS):
            piece = text[start : start + TURN_CHARACTERS]
            if len(piece) > left and turn:
                yield turn
                turn, left = [], TURN_CHARACTERS
            turn.append({"content": piece})
            left -= len(piece)
    yield turn
