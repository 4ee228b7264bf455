"""What a client sends of a request: its body, read within bounds and parsed, and the tags that it is attributed to.

This file owns what a client's body may cost before anything is held for it. A small one that came with its head is
parsed at once. Any other counts among the bytes that are in memory (`gateway.server.bodies`), and one above
`large_body_bytes` is read on only where its account can pay for something at all, and parsed off the event loop.

A client names tags in the header `X-Metergate-Tags: team=search,feature=answers` and, where its API has such a field,
in the body (`metadata`). This file owns their bounds and their order of precedence: a key's own tags, which only its
owner sets, go before the header's, and these before the body's. A header that can't be read is refused, because it is
written for this gateway; of a body's field, which is written for the provider, what does not fit is left out.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec
from multidict import istr

from billing.schemas.keys import MAX_TAG_NAME, MAX_TAG_VALUE, MAX_TAGS
from gateway.dialects.body import BadRequest
from gateway.server import limit_refusals, refusals
from gateway.server.bodies import Bodies, Kept, TooManyBytes
from gateway.server.exchange import BadBody, BodyTooLarge, Exchange
from gateway.server.refusals import Refuse

if TYPE_CHECKING:
    from billing.change_notifier import ChangeNotifier
    from billing.principals import Principal
    from gateway.config.settings import Settings
    from gateway.dialects.base import Match
    from gateway.dialects.facts import ParsedRequest
    from gateway.proxy.routing import Router
    from gateway.server.limit_refusals import Links

PROXY_SCOPE: Final = "llm:proxy"
TAGS_HEADER: Final = istr("X-Metergate-Tags")
_PAIR: Final = re.compile(
    rf"\s*([A-Za-z0-9][A-Za-z0-9_.:/-]{{0,{MAX_TAG_NAME - 1}}})\s*="
    rf"\s*([^,\x00-\x1f\x7f\ud800-\udfff]{{0,{MAX_TAG_VALUE}}})"
)
_EXPECTED: Final = (
    f"{TAGS_HEADER} has up to {MAX_TAGS} pairs such as team=search,feature=answers: names of letters, digits and _.:/- "
    f"with at most {MAX_TAG_NAME} characters, values of at most {MAX_TAG_VALUE} without commas."
)


def request_tags(own: Mapping[str, str], named: Mapping[str, str], metadata: Mapping[str, str]) -> str | None:
    """Return the tags of one request as the ledger keeps them: JSON, None where there are none. `own` are its key's,
    `named` the header's, `metadata` the body's."""
    tags = dict(own)
    for name, value in (*named.items(), *metadata.items()):
        if name not in tags and 0 < len(name) <= MAX_TAG_NAME and len(tags) < MAX_TAGS:
            tags[_storable(name)] = _storable(value[:MAX_TAG_VALUE])
    return msgspec.json.encode(tags).decode() if tags else None


def read_tags(lines: Iterable[str]) -> dict[str, str]:
    """Return the pairs of the header's values. Raises `BadRequest` for other text, a name that stands twice, and too
    many."""
    tags: dict[str, str] = {}
    for value in lines:
        for text in value.split(",", MAX_TAGS):
            if not text.strip():
                continue
            pair = _PAIR.fullmatch(text)
            if pair is None or pair[1] in tags or len(tags) == MAX_TAGS:
                raise BadRequest(_EXPECTED, str(TAGS_HEADER))
            tags[pair[1]] = pair[2].rstrip()
    return tags


def _storable(text: str) -> str:
    """Return a text that Postgres can store: without NUL."""
    return text.replace("\0", "\ufffd")


class Intake:
    """Reads and parses the bodies of metered requests."""

    def __init__(
        self,
        bodies: Bodies,
        effects: ChangeNotifier,
        router: Router,
        links: Links,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        self._bodies = bodies
        self._large_bytes = bodies.large_bytes
        self._effects = effects
        self._router = router
        self._links = links
        self._max_body_bytes = settings.proxy_max_body_bytes
        self._upload_timeout_s = settings.defaults.request.upload_timeout_s
        self._grace_s = settings.payment_grace_s
        self._clock = clock

    async def slowly(
        self, exchange: Exchange, principal: Principal, kept: Kept, body: bytes | None
    ) -> tuple[bytes, ParsedRequest]:
        """Return a body that did not come with its head, or is large, and what it says. Raises `Refuse`,
        `BodyTooLarge`, `BadRequest`."""
        body = await self._arriving(exchange, principal, kept, body)
        parse = exchange.match.dialect.parse
        if len(body) <= self._large_bytes:
            return body, parse(exchange, body)
        return body, await self._bodies.in_thread(principal.account_id, parse, exchange, body)

    async def _arriving(self, exchange: Exchange, principal: Principal, kept: Kept, body: bytes | None) -> bytes:
        """Return a body that did not come with its head, or is large: read within the bounds of what may be in memory,
        and not on once it is large where its account can't pay for it whatever it says."""
        limit_bytes = self._max_body_bytes

        async def watch(size_bytes: int) -> None:
            kept.grow(size_bytes)
            await look(size_bytes)

        async def look(size_bytes: int) -> None:
            if size_bytes > self._large_bytes and not kept.looked_at:
                kept.looked_at = True
                kept.fit(size_bytes)
                await self.refuse_hopeless(principal, exchange.match)

        try:
            if body is None and exchange.declared_bytes <= limit_bytes:
                await look(exchange.declared_bytes)
                body = await exchange.read(limit_bytes, self._upload_timeout_s, watch)
            elif body is None:
                raise BodyTooLarge
            else:
                await watch(len(body))
        except TooManyBytes as error:
            raise Refuse(refusals.too_many_bytes(error.whose)) from error
        except BadBody as error:
            raise Refuse(refusals.bad_request(str(error))) from error
        return body

    async def refuse_hopeless(
        self, principal: Principal, match: Match | None, stored_nano: Callable[[str], Awaitable[int]] | None = None
    ) -> None:
        """Refuse, before it is read, what would be refused whatever it says: a key without the scope, an account whose
        status does not let it spend, and one with nothing left, but where a model of the endpoint may be free (None: of
        none). That it comes before the checks of the body is all that differs from a small one's answer. Where Redis
        has not loaded the account it passes, unless `stored_nano` reads the ledger's balance of an account's id."""
        if PROXY_SCOPE not in principal.scopes:
            raise Refuse(limit_refusals.no_scope(PROXY_SCOPE, principal, self._links))
        may_pay = principal.may_pay(self._clock(), self._grace_s)
        if may_pay and match is not None and self._router.may_be_free(match):
            return
        live = await self._effects.live_balance(principal.account_id)
        balance_nano = None if live is None else live.balance_nano
        if balance_nano is None and stored_nano is not None:
            balance_nano = await stored_nano(principal.account_id)
        available_nano = None if balance_nano is None else balance_nano + principal.credit_limit_nano
        spent = available_nano is not None and available_nano <= 0
        if not may_pay or spent:
            raise Refuse(limit_refusals.billing_required(principal, self._links, available_nano, None))
