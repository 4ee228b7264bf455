"""Objects that requests name or create at providers: they are their account's, or they are not there.

This file owns that a request which names an object of another account's, or an unknown one, is refused as 404 and never
forwarded; that a request goes to the provider which has its objects; and that an object's owner is recorded before its
client sees the id. A record takes one insert, together with all others of the moment; of a whole answer while Redis is
asked to settle, of a stream before its first event passes. Where Postgres is away the answer passes, for it is paid:
its object is nobody's then, and can't be named later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import msgspec

from billing.database.connection import DatabaseError
from billing.owned import OwnedObject, OwnedObjects
from gateway.dialects.facts import charged_by_search
from gateway.dialects.streaming import EVENT_END, EVENT_END_BYTES, event_data
from gateway.server import refusals
from gateway.server.refusals import Refuse
from gateway.upstream.base import UpstreamError

if TYPE_CHECKING:
    from billing.holds.model import Hold
    from billing.principals import Principal
    from gateway.dialects.base import Match
    from gateway.dialects.facts import Created, Creation, ParsedRequest, Reported, Stored, Work
    from gateway.proxy.context import RequestContext
    from gateway.proxy.routing import Router
    from gateway.server.exchange import Exchange

logger = logging.getLogger(__name__)

# The kind of objects that grow by the requests which name them.
CONVERSATION: Final = "conversation"
# Of a stream's beginning that wait for its first event.
MOST_WITHHELD_BYTES: Final = 1 << 20
Keep = Callable[["Created"], Awaitable[None]]


class StoredObjects:
    """Resolves and records objects. `clock` is in Unix seconds."""

    def __init__(self, owned: OwnedObjects, router: Router, clock: Callable[[], float]) -> None:
        self._owned = owned
        self._router = router
        self._clock = clock

    async def resolve(self, match: Match, principal: Principal, parsed: ParsedRequest) -> ParsedRequest:
        """Return the request with the provider that has its objects, and the model where it names none. Raises
        `Refuse`."""
        stored = parsed.stored
        if stored is None:
            return parsed
        if not stored.names:
            return parsed if parsed.model else self._anywhere(match, principal, parsed)
        try:
            found = await self._owned.find(principal.account_id, stored.names)
        except DatabaseError as error:
            logger.info("whose the objects of a request are can't be told: %s", error)
            raise Refuse(refusals.unavailable()) from error
        for name in stored.names:
            if name not in found:
                raise Refuse(refusals.object_not_found(name))
        owned = found[stored.names[0]]
        if any(each.provider != owned.provider for each in found.values()):
            raise Refuse(refusals.bad_request("The objects of this request are at different providers."))
        model = parsed.model or f"{owned.provider}/{owned.model}"
        parsed = msgspec.structs.replace(
            parsed, model=model, stored=msgspec.structs.replace(stored, provider=owned.provider)
        )
        return self._bounded(parsed, stored, found)

    def _bounded(self, parsed: ParsedRequest, stored: Stored, found: dict[str, OwnedObject]) -> ParsedRequest:
        """Return what an earlier response has used bounds what it brings as input: its whole history and its own
        output. Tools that run at the provider and are a part of that history may run again."""
        tools = tuple(dict.fromkeys(tool for owned in found.values() for tool in owned.tools))
        if tools:
            parsed = _with_earlier_tools(parsed, tools)
        for owned in found.values():
            if owned.kind == CONVERSATION:  # which takes the items of this request in
                self._owned.note_tools(owned, stored.tools)
        total = None if stored.previous is None else found[stored.previous].total_tokens
        if total is None:
            return parsed
        bound = parsed.input_bound_tokens + total
        return msgspec.structs.replace(parsed, input_bound_tokens=bound, unbounded_input=False)

    def _anywhere(self, match: Match, principal: Principal, parsed: ParsedRequest) -> ParsedRequest:
        """Name the first priced entry that the key may use and whose provider serves the dialect; one of the provider
        that the dialect is named for goes before others."""
        found = None
        for route in self._router.entries(self._clock()):
            first = route.first
            if first.rates is None or not principal.allows_model(route.entry) or not route.destinations(match):
                continue
            own = first.provider.kind == match.dialect.name
            if own or found is None:
                found = route.entry
            if own:
                break
        if found is not None:
            return msgspec.structs.replace(parsed, model=found)
        raise Refuse(refusals.model_not_served("", match.dialect.name, ()))

    async def record(self, context: RequestContext, created: Created | None, total_tokens: int | None) -> None:
        """Record the object that an answer has created, or what it has used."""
        stored, route = context.parsed.stored, context.route
        if created is None or stored is None or stored.creation is None:
            return
        owned = OwnedObject(
            object_id=created.object_id,
            provider=route.provider.name,
            account_id=context.principal.account_id,
            kind=stored.creation.kind,
            model=route.model,
            total_tokens=total_tokens if stored.whole else None,
            tools=stored.tools,
        )
        try:
            if not await self._owned.record(owned):
                logger.error("request %s: its object is another account's by the ledger", context.request_id)
        except DatabaseError as error:
            logger.error("request %s: its object could not be recorded: %s", context.request_id, error)


def _with_earlier_tools(parsed: ParsedRequest, tools: tuple[str, ...]) -> ParsedRequest:
    """Return a request that may use these tools, too, which what it goes on from has brought."""
    stored, work = parsed.stored, parsed.work
    named = {*work.open_tools, *work.bounded_tools}
    further = tuple(tool for tool in tools if tool not in named)
    if further and not parsed.prepares:
        work = _with_further(work, further, None if stored is None else stored.most_calls)
    if stored is not None:
        stored = msgspec.structs.replace(stored, tools=tuple(dict.fromkeys((*stored.tools, *tools))))
    return msgspec.structs.replace(parsed, work=work, stored=stored)


def _with_further(work: Work, further: tuple[str, ...], most_calls: int | None) -> Work:
    """Return work with further tools, which may run as often as a request says for all of its tools together, or else
    are left open."""
    searching = sum(map(charged_by_search, further))
    if most_calls is None:
        return msgspec.structs.replace(
            work, open_tools=(*work.open_tools, *further), open_searches=work.open_searches + searching
        )
    uses = max(1, most_calls)
    return msgspec.structs.replace(
        work,
        uses=work.uses + uses,
        searches=max(work.searches, uses) if searching else work.searches,
        bounded_tools=() if work.uses and not work.bounded_tools else (*work.bounded_tools, *further),
    )


def tokens_to_go_on_from(context: RequestContext, hold: Hold, reported: Reported | None) -> int | None:
    """Return what bounds the input that a settled response is to what goes on from it: what its provider counted, or
    else the input that was held and the output that was charged; None where a hold is no bound."""
    if reported is not None and not reported.counts_nothing:
        return reported.usage.total_tokens
    if not context.strict or context.charged is None:
        return None
    return hold.need.input_tokens + context.charged.output_tokens


class WorksOn(UpstreamError):
    """A stream need not be read on: its provider works on the object that it has created without it."""

    def __init__(self, created: Created) -> None:
        super().__init__(f"the provider works on {created.object_id}")
        self.created = created


class FirstEvent:
    """Looks for the object that the first event of a stream tells of. `feed` returns whether that is over."""

    __slots__ = ("_begun", "_creation", "_read", "created")

    def __init__(self, creation: Creation) -> None:
        self._creation = creation
        self._begun = bytearray()
        self._read = 0  # so many of its bytes are events that told of none
        self.created: Created | None = None

    def feed(self, data: bytes) -> bool:
        """Take a further piece; True once the first event has been here whole, or is too large."""
        search_from = max(self._read, len(self._begun) + 1 - EVENT_END_BYTES)
        self._begun += data
        while (match := EVENT_END.search(self._begun, search_from)) is not None:
            event = event_data(bytes(self._begun[self._read : match.end()]))
            self._read = search_from = match.end()
            if event:
                self.created = self._creation.of_event(event)
                return True
        return len(self._begun) >= MOST_WITHHELD_BYTES

    def taken(self) -> bytes:
        """Return what was fed so far, once."""
        begun, self._begun, self._read = bytes(self._begun), bytearray(), 0
        return begun


class Withheld:
    """The beginning of a stream that creates an object: kept from the client until the object is recorded, and until
    the work on it is kept where that is done in the background.

    `put` takes what is to pass; it returns False where `release` must be awaited before more is put. Where its client
    has left (`leave`) nothing is recorded: nobody sees the object's id.
    """

    __slots__ = ("_context", "_exchange", "_first", "_keep", "_left", "_objects", "_open")

    def __init__(
        self, objects: StoredObjects, exchange: Exchange, context: RequestContext, creation: Creation, keep: Keep
    ) -> None:
        """`keep` is given an object on which the provider works on without this stream."""
        self._objects = objects
        self._exchange = exchange
        self._context = context
        self._first = FirstEvent(creation)
        self._keep = keep
        self._open = self._left = False

    @property
    def created(self) -> Created | None:
        """Return the object, once its event is here."""
        return self._first.created

    @property
    def is_open(self) -> bool:
        """Return whether nothing is withheld any more."""
        return self._open

    @property
    def running(self) -> Created | None:
        """Return the object on which the provider works on where this stream breaks."""
        return running_of_event(self._context.parsed, self._first.created)

    def put(self, data: bytes) -> bool:
        """Pass data on, or withhold it. Raises `ClientGone`."""
        if self._open:
            return self._exchange.put(data)
        return not self._first.feed(data)

    async def release(self) -> None:
        """Record the object, and let its event pass. Raises `ClientGone`, and `WorksOn` where that has left and the
        provider works on without it."""
        if self._open:
            return
        running = self.running
        if self._left:
            if running is not None:
                raise WorksOn(running)
        else:
            if self.created is not None:
                await self._objects.record(self._context, self.created, None)
            if running is not None:
                await self._keep(running)
        self._open = True
        begun = self._first.taken()
        if begun:
            self._exchange.put(begun)

    def leave(self, to: Exchange) -> None:
        """Go on without the client; `to` stands for it."""
        self._exchange, self._left = to, True

    async def flushed(self) -> None:
        """Release what is withheld, and wait until the client has taken it, or has left."""
        await self.release()
        await self._exchange.flushed()


def running_of(parsed: ParsedRequest, body: bytes) -> Created | None:
    """Return the object on which a provider works on after this answer to a request that asked for that."""
    stored = parsed.stored
    if stored is None or stored.creation is None or not stored.background:
        return None
    created = stored.creation.of_answer(body)
    return created if created is not None and created.running else None


def running_of_event(parsed: ParsedRequest, created: Created | None) -> Created | None:
    """Return the object of a stream's first event where the provider works on it in the background."""
    background = parsed.stored is not None and parsed.stored.background
    return created if background and created is not None and created.running else None
