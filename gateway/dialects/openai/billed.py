"""OpenAI's format, the answer: what is billed beside tokens, and what a provider says that it charged.

Costs, which rows with `cost: reported` believe:

- OpenRouter: `cost`, to which the cost at the upstream is added where the key there is the operator's own
  (https://openrouter.ai/docs/use-cases/usage-accounting).
- Perplexity: `cost.total_cost`, the fee of the request included (https://docs.perplexity.ai/api-reference).
- xAI: `cost_in_usd_ticks`, of 1e-10 USD each.

A cost is read from the text of its number: no float comes of it. This file owns that none takes longer to read than its
text is long, whatever exponent stands there.

Searches, of which one count under several names is one count: the first of these that is there is taken. Calls of other
tools (pages opened, code run) are no searches.

- Anthropic's format, and OpenRouter's: `server_tool_use.web_search_requests`.
- xAI: calls by tool in `server_side_tool_usage_details`; before it had these, sources in `num_sources_used`.
- Perplexity: `num_search_queries`.
- OpenAI's search models count nothing; their citations tell that they searched, once a request.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT

MAX_COST_USD: Final = 1_000_000
"""A reported cost of so much is none."""
COST_DECIMALS: Final = 24
TICK_DECIMALS: Final = 10
_SMALLEST: Final = Decimal(1).scaleb(-COST_DECIMALS)
_CONTEXT: Final = Context(prec=64)
_NULL: Final = Raw(b"null")
CITATION: Final = b'"url_citation"'
"""No text of an answer has these bytes: quotation marks are escaped there."""
_MARKS: Final = (b"search", b"num_sources")
_BY_TOOL: Final[msgspec.json.Decoder[dict[str, int | None] | None]] = msgspec.json.Decoder(dict[str, int | None] | None)
_COUNT: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)


class CostFields(msgspec.Struct):
    """The fields of a usage object that tell a cost."""

    cost: Raw = _NULL
    cost_details: Raw = _NULL
    is_byok: Raw = _NULL
    cost_in_usd_ticks: Raw = _NULL


class _Details(msgspec.Struct):
    upstream_inference_cost: Raw = _NULL


class _Total(msgspec.Struct):
    total_cost: Raw = _NULL


_DETAILS: Final = msgspec.json.Decoder(_Details)
_TOTAL: Final = msgspec.json.Decoder(_Total)


def reported_cost(fields: CostFields) -> str | None:
    """Return the cost as a plain decimal of USD, None where there is none, or what stands there is no amount."""
    try:
        cost = _cost(fields)
    except (msgspec.DecodeError, ArithmeticError, ValueError):
        return None
    if cost is None or not 0 <= cost < MAX_COST_USD:
        return None
    if cost and cost.adjusted() < -COST_DECIMALS:
        cost = _SMALLEST
    exponent = cost.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -COST_DECIMALS:
        cost = cost.quantize(_SMALLEST, ROUND_CEILING, _CONTEXT)
    return f"{cost:f}"


def _cost(fields: CostFields) -> Decimal | None:
    """Return the cost that a provider names. Raises `msgspec.DecodeError`, `ArithmeticError`, `ValueError`."""
    if fields.cost == _NULL:
        ticks = _decimal(fields.cost_in_usd_ticks)
        return None if ticks is None else ticks.scaleb(-TICK_DECIMALS)
    text = bytes(fields.cost)
    cost = _decimal(_TOTAL.decode(text).total_cost) if text.startswith(b"{") else _decimal(fields.cost)
    if cost is not None and fields.is_byok == Raw(b"true") and fields.cost_details != _NULL:
        cost += _decimal(_DETAILS.decode(fields.cost_details).upstream_inference_cost) or 0
    return cost


def _decimal(raw: Raw) -> Decimal | None:
    return None if raw == _NULL else Decimal(bytes(raw).decode())


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Searches(msgspec.Struct):
    server_tool_use: Raw = Raw(b"null")
    server_side_tool_usage_details: Raw = Raw(b"null")
    num_search_queries: Raw = Raw(b"null")
    num_sources_used: Raw = Raw(b"null")


_SEARCHES: Final = msgspec.json.Decoder(_Searches)


_SERVER_TOOLS: Final[msgspec.json.Decoder[_ServerTools | None]] = msgspec.json.Decoder(_ServerTools | None)


def searches_of(usage: Raw, choices: Raw) -> int:
    """Return how many searches an answer reports in its `usage`, or shows in its `choices`."""
    return _counted(usage) or (1 if CITATION in bytes(choices) else 0)


def _counted(usage: Raw) -> int:
    text = bytes(usage)
    if not any(mark in text for mark in _MARKS):
        return 0
    try:
        counts = _SEARCHES.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    for count in (
        _by_server_tool(counts.server_tool_use),
        _by_tool(counts.server_side_tool_usage_details),
        _plain(counts.num_search_queries),
        _plain(counts.num_sources_used),
    ):
        if count:
            return min(count, MAX_COUNT)
    return 0


def _by_server_tool(raw: Raw) -> int:
    try:
        tools = _SERVER_TOOLS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    return max(0, tools.web_search_requests or 0) if tools is not None else 0


def _by_tool(raw: Raw) -> int:
    try:
        calls = _BY_TOOL.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    return sum(max(0, count or 0) for name, count in (calls or {}).items() if "search" in name)


def _plain(raw: Raw) -> int:
    try:
        return max(0, _COUNT.decode(raw) or 0)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
