"""OpenAI's format, the answer: how often the provider searched, which it bills beside tokens. This file owns it.

- Anthropic's format, and OpenRouter's: `server_tool_use.web_search_requests`.
- xAI: calls by tool in `server_side_tool_usage_details`; before it had these, sources in `num_sources_used`.
- Perplexity: `num_search_queries`.
- OpenAI's search models count nothing; their citations tell that they searched, once a request.

One count under several names is one count: the first of these that is there is taken. Calls of other tools (pages
opened, code run) are no searches.
"""

from typing import Final

import msgspec
from msgspec import Raw

from billing.usage import MAX_COUNT

CITATION: Final = b'"url_citation"'
"""No text of an answer has these bytes: quotation marks are escaped there."""

_MARKS: Final = (b"search", b"num_sources")


class _ServerTools(msgspec.Struct):
    web_search_requests: int | None = None


class _Searches(msgspec.Struct):
    server_tool_use: Raw = Raw(b"null")
    server_side_tool_usage_details: Raw = Raw(b"null")
    num_search_queries: Raw = Raw(b"null")
    num_sources_used: Raw = Raw(b"null")


_SEARCHES: Final = msgspec.json.Decoder(_Searches)
_SERVER_TOOLS: Final[msgspec.json.Decoder[_ServerTools | None]] = msgspec.json.Decoder(_ServerTools | None)
_BY_TOOL: Final[msgspec.json.Decoder[dict[str, int | None] | None]] = msgspec.json.Decoder(dict[str, int | None] | None)
_COUNT: Final[msgspec.json.Decoder[int | None]] = msgspec.json.Decoder(int | None)


def searches_of(usage: Raw, choices: Raw) -> int:
    """How many searches an answer reports in its `usage`, or shows in its `choices`."""
    return _counted(usage) or (1 if CITATION in bytes(choices) else 0)


def _counted(usage: Raw) -> int:
    text = bytes(usage)
    if not any(mark in text for mark in _MARKS):
        return 0
    try:
        said = _SEARCHES.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    for count in (
        _by_server_tool(said.server_tool_use),
        _by_tool(said.server_side_tool_usage_details),
        _plain(said.num_search_queries),
        _plain(said.num_sources_used),
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
