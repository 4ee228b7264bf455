"""What a provider is sent of a request: where it goes, its query string and its body. Pure.

This file owns that the provider is asked for no more output than was held: the field in which it takes a maximum
carries the client's own or the granted one, whichever field the client used. Where nothing needs to change, the
client's bytes are sent as they are.

It owns what of a client's query string goes on, too. Providers choose versions and features by it (`?api-version=...`),
so that a client's follows that of the provider's base URL, whose parameters win. Never passed are credentials by their
names, a key of this gateway wherever it stands, the fields that metering reads from the body, which a provider may read
from here, and what would have a provider leave usage out of its answer or write another format. A name counts by its
letters and digits alone: servers differ in what they take for `%20key`, `key[]` or `Key`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_plus

from gateway.dialects.base import Changes
from gateway.dialects.declared import of_all
from gateway.proxy.headers import outgoing
from gateway.server.exchange import keep_of_head
from gateway.upstream.base import UpstreamRequest

if TYPE_CHECKING:
    from gateway.dialects.base import Dialect
    from gateway.dialects.facts import ParsedRequest
    from gateway.proxy.candidates import Candidate, Target
    from gateway.proxy.context import Granted, RequestContext
    from gateway.proxy.headers import Fixed
    from gateway.server.exchange import Exchange

# Runs a function for an account off the event loop.
InThread = Callable[..., Awaitable[Any]]
# Of a body whose outgoing request is made in the event loop, and before its hold is there.
MAX_PREPARED_BYTES: Final = 65_536
# Names of parameters that hold credentials, as `_bare` has them.
CREDENTIALS: Final = frozenset(
    {
        "key",
        "apikey",
        "xapikey",
        "xgoogapikey",
        "accesskey",
        "subscriptionkey",
        "authorization",
        "auth",
        "token",
        "accesstoken",
        "oauthtoken",
        "bearertoken",
        "secret",
        "password",
        "passwd",
        "sig",
        "signature",
    }
)
# What servers take of any request, which would change the answer.
OF_THE_ANSWER: Final = frozenset(of_all(lambda each: each.system_parameters))
# The first character of such a name at Google; there are more of them (`$ct` stands for Content-Type).
_SYSTEM: Final = "$"
# Of a client's; what stands behind them does not go on. To look into one takes some microseconds.
MAX_PARAMETERS: Final = 100
# How lines begin that tell of a span.
_OF_TRACES: Final = (b"traceparent:", b"tracestate:")
# What begins as a key of this gateway does.
_OWN_KEY: Final = re.compile(r"mg_[0-9A-Za-z]{20}")
# What is shorter has none, so that it may be remembered.
OWN_KEY_CHARACTERS: Final = 23
# Not `;`, which some servers take for `&`.
_SAFE: Final = "!$%'()*+,/:=?@[]~"
_BARE: Final = re.compile(r"[^a-z0-9]+")
# How often a parameter may be percent-encoded and is still looked into.
_DECODINGS: Final = 3


def prepare(exchange: Exchange, context: RequestContext) -> None:
    """Make what the provider is sent where the hold leaves the request as it is, so that it is there when Redis has
    answered. Not of a large body: a request that is refused should not cost that; nor where calls of tools are
    granted."""
    large = len(context.body) > MAX_PREPARED_BYTES
    # A traced one names the span of its attempt, which begins with the hold.
    later = large or context.parsed.work.open_tools or context.trace is not None
    if context.prepared is None and not later:
        context.prepared = provider_request(exchange, context, None)


def provider_request(exchange: Exchange, context: RequestContext, granted: Granted | None) -> UpstreamRequest:
    """Return what the provider is sent of a request; `granted` is what the client did not bound, and the hold did."""
    route, target, parsed, body = context.route, context.target, context.parsed, context.body
    dialect, url = context.match.dialect, target.url
    if granted is not None or not context.terms.passes_as_it_is(parsed, route, target.max_field):
        output_tokens, tool_calls = (None, None) if granted is None else granted
        body = provider_body(
            dialect,
            parsed,
            route,
            body,
            output_tokens,
            target.max_field,
            strict=context.strict,
            tool_calls=tool_calls,
        )
    if "?" in exchange.path and target.takes_query:
        url = provider_url(target, exchange.path, dialect)
    lines = _lines_of(exchange, target.fixed, context.principal.account_id)
    if context.trace is not None:
        lines = _without_trace(lines) + context.trace.provider_lines()
    return UpstreamRequest(
        url,
        lines,
        body,
        method=context.match.endpoint.method,
        account=context.principal.account_id,
    )


def _without_trace(lines: bytes) -> bytes:
    """Return header lines without those of a trace, which `pass_headers` may name: a provider reads neither of two."""
    return b"\r\n".join(line for line in lines.split(b"\r\n") if not line.lower().startswith(_OF_TRACES))


def _lines_of(exchange: Exchange, fixed: Fixed, account_id: str) -> bytes:
    """Return the lines of the client's headers for a provider; of a head that is remembered they are made once."""
    kept = exchange.kept_facts
    if kept is None:
        return outgoing(exchange.raw_headers, fixed, account_id)
    made = kept.get((id(fixed), account_id))
    if made is None:
        made = fixed, outgoing(exchange.raw_headers, fixed, account_id)
        keep_of_head(kept, account_id, made)
    lines: bytes = made[1]
    return lines


async def provider_request_in_thread(
    in_thread: InThread | None, exchange: Exchange, context: RequestContext, granted: Granted | None
) -> UpstreamRequest:
    """Return the same; of a large body made off the event loop, where `in_thread` does so for an account."""
    if in_thread is None or len(context.body) <= MAX_PREPARED_BYTES:
        return provider_request(exchange, context, granted)
    made: UpstreamRequest = await in_thread(context.principal.account_id, provider_request, exchange, context, granted)
    return made


def provider_url(target: Target, path: str, dialect: Dialect) -> str:
    """Return a target's URL with what passes of the query string of a client's path."""
    query = upstream_query(target.base_query, path.partition("?")[2], dialect)
    return target.url.partition("?")[0] + (f"?{query}" if query else "")


def provider_body(
    dialect: Dialect,
    parsed: ParsedRequest,
    candidate: Candidate,
    body: bytes,
    granted: int | None,
    field: str,
    *,
    strict: bool,
    tool_calls: int | None = None,
) -> bytes:
    """Return what is sent of a request to a candidate; the same object where nothing changes.

    `granted` are the output tokens that the client did not bound, and the hold did; `field` is where the provider takes
    a maximum; `strict` says that the hold is a bound; `tool_calls` are those that were granted to open tools.
    """
    if granted is None and parsed.max_output_tokens is not None:
        granted = _imposed(parsed, parsed.max_output_tokens, candidate, field, strict)
    add_usage = parsed.stream and not parsed.include_usage and candidate.provider.stream_usage
    model = None if parsed.model_in_body and candidate.model == parsed.model else candidate.model
    if granted is None and not add_usage and model is None and tool_calls is None:
        return body
    return dialect.rewrite(body, Changes(model, add_usage, granted, field, tool_calls))


def _imposed(parsed: ParsedRequest, asked: int, candidate: Candidate, field: str, strict: bool) -> int | None:
    """Return the maximum to send in place of the client's own, None where that may pass as it stands."""
    most = candidate.within_window(asked) if strict else asked
    return None if most == asked and field in parsed.max_fields else most


def upstream_query(base: str, given: str, dialect: Dialect) -> str:
    """Return the query string for a provider, without `?`, in ASCII: that of its base URL and what passes of a
    client's."""
    made = _query if len(given) < OWN_KEY_CHARACTERS else _query.__wrapped__
    return made(base, given, dialect.kept_parameters, dialect.passed_parameters)


@lru_cache(maxsize=256)
def _query(base: str, given: str, kept: frozenset[str], passed: frozenset[str]) -> str:
    never = _never(kept, passed)
    taken = {_name(pair).strip().lower() for pair in base.split("&")}
    parameters = given.partition("#")[0].split("&", MAX_PARAMETERS)[:MAX_PARAMETERS]
    pairs = [base] if base else []
    pairs += [quoted for pair in parameters if (quoted := _passed(pair, taken, never)) is not None]
    return "&".join(pairs)


def _passed(pair: str, taken: set[str], never: frozenset[str]) -> str | None:
    name = _name(pair).strip().lower()
    bare = _bare(name)
    if not pair or name in taken or name.startswith(_SYSTEM) or bare in never:
        return None
    text = pair
    for _ in range(_DECODINGS + 1):
        if _OWN_KEY.search(text):
            return None
        text = unquote_plus(text)
    return quote(pair.encode("utf-8", "surrogateescape"), safe=_SAFE)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


def _bare(name: str) -> str:
    return _BARE.sub("", name.lower())


@lru_cache(maxsize=64)
def _never(kept: frozenset[str], passed: frozenset[str]) -> frozenset[str]:
    """Return the names of parameters that no provider is sent, in lower case and without signs."""
    return CREDENTIALS | (OF_THE_ANSWER | {_bare(name) for name in kept}) - {_bare(name) for name in passed}
