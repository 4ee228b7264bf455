"""From a parsed request to what is held for it: its route, the terms of its key there, and the worst case.

This file owns the order of these checks (404, 403 scope, 403 model, not priced), and that input which is counted stays
a bound: texts that stand alone are counted by the model's own vocabulary, and the rest of the JSON stays at its bytes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from multidict import istr

from billing.holds.model import Need, NeedTooLarge
from gateway.dialects.body import quoted
from gateway.dialects.declarations import NO_METADATA
from gateway.dialects.declared import NO_BETAS, Betas
from gateway.dialects.facts import NO_PARTS
from gateway.proxy.attempts import first_choice
from gateway.proxy.candidates import OF_THE_ROUTE
from gateway.proxy.context import FEATURE, Facts, RequestContext, Terms, keep_facts, shown_id
from gateway.proxy.estimate import NotPriced, dearest, markup_of
from gateway.proxy.intake import PROXY_SCOPE, TAGS_HEADER, read_tags, request_tags
from gateway.proxy.senders import Sender, Senders
from gateway.server import limit_refusals, refusals
from gateway.server.exchange import keep_of_head
from gateway.server.ids import REQUEST_ID
from gateway.server.refusals import Refuse
from gateway.tokens import PIECE_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from multidict import MultiMapping

    from billing.principals import Principal
    from gateway.config.defaults import EstimateSettings
    from gateway.dialects.base import Match
    from gateway.dialects.facts import ParsedRequest
    from gateway.proxy.candidates import Candidate, Destination, Route
    from gateway.proxy.routing import Router
    from gateway.server.bodies import Bodies
    from gateway.server.exchange import Exchange
    from gateway.server.limit_refusals import Links
    from gateway.tokens import Tokenizer

CLIENT_REQUEST_ID: Final = istr(REQUEST_ID)
# Names that are lowered once, and not with every look-up.
INCLUDE_COST: Final = istr("x-metergate-include-cost")
# What a request to a free endpoint holds: it counts as a request.
FREE_NEED: Final = Need(0, 0, 0, 1, 0, 0)
# More than what cutting a long text into pieces can hide of its tokens, for each cut; at most two were ever found.
CUT_TOKENS: Final = 16
# Of texts that are counted in one turn of a thread: about 25 ms.
TURN_CHARACTERS: Final = 131_072
# A body above this is held by its bytes alone: counting its tokens would keep a core busy for a second.
MAX_COUNTED_BYTES: Final = 4 << 20


class HeadFacts(NamedTuple):
    """What the gateway itself reads of a client's headers: the tags that they name, the client's own id of the request,
    whether it wants to see the cost in a stream, who sent it, and whether opt-ins stand there that change the bill."""

    tags: Mapping[str, str]
    client_request_id: str | None
    include_cost: bool
    sender: Sender
    has_betas: bool


@dataclass(frozen=True, slots=True)
class KnownHeaders:
    """What the configuration knows of clients' headers: opt-ins that change the bill, and what names who sent a
    request."""

    senders: Senders
    betas: Betas = NO_BETAS

    def read(self, headers: MultiMapping[str]) -> HeadFacts:
        """Return what a client's headers say, whatever its body does. Raises `BadRequest`."""
        client_id = headers.get(CLIENT_REQUEST_ID)
        return HeadFacts(
            read_tags(headers.getall(TAGS_HEADER)) if TAGS_HEADER in headers else NO_METADATA,
            shown_id(client_id) if client_id else None,
            headers.get(INCLUDE_COST, "").lower() == "true",
            self.senders.of(headers, None),
            self.betas.stand_in(headers),
        )


class Preparation:
    """Routes and estimates requests. `clock` is in Unix seconds; `links` are where refusals lead."""

    def __init__(
        self,
        router: Router,
        rules: EstimateSettings,
        bodies: Bodies,
        tokenizer: Tokenizer,
        clock: Callable[[], float],
        *,
        links: Links,
        headers: KnownHeaders,
    ) -> None:
        self._headers = headers
        self._links = links
        self._router = router
        self._rules = rules
        self._bodies = bodies
        self._tokenizer = tokenizer
        self._draw = random.random  # noqa: S311  # it chooses among targets
        self.clock = clock

    def context(
        self,
        exchange: Exchange,
        request_id: str,
        principal: Principal,
        parsed: ParsedRequest,
        body: bytes,
        started_s: float,
    ) -> RequestContext:
        """Return what is known of a request before it is held: its route, and the terms of its key there. Raises
        `Refuse`, `BadRequest`."""
        head = self._head_facts(exchange)
        if head.has_betas:
            parsed = self._headers.betas.applied(parsed, exchange.headers)
        if not parsed.model:
            parsed = msgspec.structs.replace(parsed, model=self._rules.moderation_model)
        match = exchange.match
        facts, destinations = self._destinations(match, principal, parsed)
        first = destinations[0]
        target, further = first.targets[0], destinations[1:]
        if further or len(first.targets) > 1:
            usable = self._usable(principal, parsed, destinations)
            first, target, further = first_choice(usable, self._draw())
        candidate = first.candidate
        terms = facts.terms.get(first.kept_as)
        if terms is None:
            self._check_allowed(principal, candidate)
            terms = facts.terms[first.kept_as] = Terms(principal, facts.route, candidate, self._rules)
        if parsed.work.models:
            candidate = self._with_others(principal, candidate, parsed.work.models)
            terms = Terms(principal, facts.route, candidate, self._rules)
        tags, sender = terms.tags, head.sender
        if head.tags or parsed.metadata:
            tags = request_tags(principal.tags, head.tags, parsed.metadata)
        if parsed.session is not None and sender.session is None:
            sender = self._headers.senders.of(exchange.headers, parsed.session)
        return RequestContext(  # by position, which takes a fifth of the time that it takes by name
            request_id,
            match,
            match.endpoint.path,
            principal,
            parsed,
            candidate,
            further,
            first.targets,
            target,
            body,
            started_s,
            head.client_request_id,
            head.include_cost,
            self._rules.strict,
            facts,
            terms,
            tags,
            sender,
        )

    def _head_facts(self, exchange: Exchange) -> HeadFacts:
        """Return what a client's headers say; of a head that is remembered they are read once."""
        known, kept = self._headers, exchange.kept_facts
        if kept is None:
            return known.read(exchange.headers)
        made = kept.get((id(known), ""))
        if made is None:
            made = known, known.read(exchange.headers)
            keep_of_head(kept, "", made)
        facts: HeadFacts = made[1]
        return facts

    def _destinations(
        self, match: Match, principal: Principal, parsed: ParsedRequest
    ) -> tuple[Facts, tuple[Destination, ...]]:
        """Return the facts of the model asked for, and who of its route serves this request: at least one. Raises
        `Refuse`."""
        route, endpoint = self._router.find(parsed.model, self.clock()), match.endpoint
        kept_as = match.dialect.name, endpoint.operation, endpoint.path, parsed.model
        facts: Facts | None = principal.kept.get(kept_as)
        if facts is None or facts.route is not route:
            facts = self._facts(match, route, parsed.model)
            if match.parameters.keys() <= OF_THE_ROUTE:
                keep_facts(principal, kept_as, facts)
        destinations = facts.destinations
        if parsed.stored is not None and (provider := parsed.stored.provider) is not None:
            destinations = tuple(each for each in destinations if each.candidate.provider.name == provider)
            if not destinations:
                raise Refuse(refusals.stored_elsewhere(parsed.model, provider))
        return facts, destinations

    def _facts(self, match: Match, route: Route | None, model: str) -> Facts:
        if route is None:
            raise Refuse(refusals.model_not_found(model))
        destinations = route.destinations(match)
        if not destinations:
            raise Refuse(refusals.model_not_served(model, match.dialect.name, route.served))
        return Facts(route, destinations)

    def _check_allowed(self, principal: Principal, candidate: Candidate) -> None:
        if PROXY_SCOPE not in principal.scopes:
            raise Refuse(limit_refusals.no_scope(PROXY_SCOPE, principal, self._links))
        if not principal.allows_model(candidate.entry):
            raise Refuse(refusals.model_not_allowed(candidate.entry))

    def _usable(
        self, principal: Principal, parsed: ParsedRequest, destinations: Sequence[Destination]
    ) -> Sequence[Destination]:
        """Return the destinations that may serve this request. A fallback must be allowed to the key by its own name,
        and the quotas that name it must be those that the hold counts in; what the request brings must have a price and
        a bound there. What other models a request names, what its input refers to, and tools that run at the
        provider, only the first one knows."""
        first, *fallbacks = destinations
        work = parsed.work
        if work.models or work.uses or work.open_tools or parsed.unbounded_input:
            return (first,)
        counted = principal.limits_for(first.candidate.entry, FEATURE).all
        usable = [first]
        for each in fallbacks:
            name = each.candidate.fallback or each.candidate.entry
            limits = principal.limits_for(name, FEATURE)
            if not principal.allows_model(name) or not limits.all <= counted:
                continue
            try:
                markup_scaled = principal.plan.markup_of(each.candidate.entry)
                dearest(parsed, (each.candidate,), markup_scaled, self._rules)
            except (NotPriced, NeedTooLarge):
                continue
            usable.append(each)
        return usable

    def _with_others(self, principal: Principal, route: Candidate, models: tuple[str, ...]) -> Candidate:
        """Return the route with the other models that a request names, at the greatest markup of them all: whichever
        may answer, naming it beside a cheaper one makes it no cheaper. The key must be allowed them, and each has a
        price."""
        now_s, plan = self.clock(), principal.plan
        route, entries, unpriced = self._router.with_others(route, models, now_s)
        found = (self._router.find(entry, now_s) for entry in entries)
        ways = [route, *(each.first for each in found if each is not None)]
        route = replace(route, markup_scaled=max(markup_of(way, plan.markup_of(way.entry)) for way in ways))
        counted = principal.limits_for(route.entry, FEATURE).all
        for entry in entries:
            if not principal.allows_model(entry):
                raise Refuse(refusals.model_not_allowed(entry))
            if not principal.limits_for(entry, FEATURE).all <= counted:  # the hold would not count in them
                message = f"The model '{entry}' has quotas of its own here: ask for it by itself."
                raise Refuse(refusals.bad_request(message, "models"))
        for model in unpriced:
            raise Refuse(
                refusals.model_not_priced(f"The model {quoted(model)}, which the request names, has no price here")
            )
        return route

    def need(self, context: RequestContext, counted: int | None = None) -> Need:
        """Return the worst case, which is held; `counted` are its input tokens where they were counted. Raises
        `Refuse`."""
        route, terms, parsed = context.route, context.terms, context.parsed
        if context.match.endpoint.free and route.rates is not None:
            return FREE_NEED
        try:
            plain = terms.plain if route is terms.candidate and not context.further else None
            if plain is not None and (need := plain.need(parsed, counted)):
                return need
            candidates = (route, *[each.candidate for each in context.further])
            return dearest(parsed, candidates, terms.plan_markup_scaled, terms.rules, counted)
        except NotPriced as error:
            raise Refuse(refusals.model_not_priced(str(error))) from error
        except NeedTooLarge as error:
            raise Refuse(refusals.bad_request(f"This request is too large: {error}.", "max_tokens")) from error

    async def counted(self, context: RequestContext) -> int | None:
        """Return as `counted_tokens`, where the model's own vocabulary is known and all of its input is text in the
        body."""
        parsed, body = context.parsed, context.body
        countable = context.route.exact_vocabulary and parsed.parts is NO_PARTS and not parsed.unbounded_input
        countable = countable and (parsed.stored is None or not parsed.stored.names)
        if not countable or context.further or not self._rules.strict or len(body) > MAX_COUNTED_BYTES:
            return None
        account_id, texts_of = context.principal.account_id, context.match.dialect.texts
        large = len(body) > self._bodies.large_bytes
        texts = await self._bodies.in_thread(account_id, texts_of, body) if large else texts_of(body)
        return await counted_tokens(
            parsed.input_bound_tokens, texts, self._tokenizer, context.route.vocabulary, account_id
        )


async def counted_tokens(
    body_bytes: int, texts: Sequence[tuple[str, int]], tokenizer: Tokenizer, vocabulary: str, account_id: str = ""
) -> int:
    """Return the most input tokens of a body, below its bytes where it has long texts: those that stand alone are
    counted, and the rest of the JSON, which is more than what a chat template adds to a message, stays at its bytes.

    Long texts are counted in several turns of their account: others have theirs in between.
    """
    counted = cuts = 0
    for turn in _turns([text for text, _ in texts]):
        counted += await tokenizer.count_chat_messages_off_loop(turn, vocabulary, account_id)
        cuts += 1 + sum(len(each["content"]) // PIECE_CHARACTERS for each in turn)
    cuts = max(0, cuts - 1)  # between two turns a text may be cut
    return body_bytes - sum(size_bytes for _, size_bytes in texts) + counted + cuts * CUT_TOKENS


def _turns(texts: Sequence[str]) -> Iterator[list[dict[str, str]]]:
    """Yield messages of these texts, in lists of at most TURN_CHARACTERS together; a longer text is cut."""
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
