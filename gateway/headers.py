"""Which headers pass between a client and a provider. Pure functions on bytes; this file owns that list.

Headers come as the parsers give them, pairs of bytes, and leave as lines that end with CRLF: nothing in between is
decoded or built, because this runs for every request in both directions. A name or value with CR, LF or NUL can't
arrive here: aiohttp's and httptools' parsers refuse the message.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

RawHeaders = Iterable[tuple[bytes, bytes]]

NAMES_KEPT: Final = 4_096
NAME_BYTES: Final = 64
"""Spellings of names whose fate is remembered: how many, and how long."""

# RFC 9110, 7.6.1, and `keep-alive` and `proxy-*` from the older documents that peers still follow.
_HOP_BY_HOP: Final = frozenset(
    {
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

_NOT_SENT: Final = _HOP_BY_HOP | {
    # The message that goes out is a new one: other host, other framing, a body that was decoded and read whole.
    b"accept-encoding",
    b"content-encoding",
    b"content-length",
    b"expect",
    b"host",
    # Credentials and identities of the client's side.
    b"authorization",
    b"cookie",
    b"openai-organization",
    b"openai-project",
    b"x-api-key",
    b"x-goog-api-key",
    b"x-request-id",
    # Where the client sits is not the provider's business.
    b"forwarded",
    b"via",
    b"x-real-ip",
}
_NOT_SENT_PREFIXES: Final = (b"x-metergate-", b"x-forwarded-", b"proxy-")

_NOT_ANSWERED: Final = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    # The operator's own account with the provider.
    b"anthropic-organization-id",
    b"openai-organization",
    b"openai-project",
    # What would act on the gateway's whole origin.
    b"alt-svc",
    b"clear-site-data",
    b"nel",
    b"report-to",
    b"set-cookie",
    b"set-cookie2",
    b"strict-transport-security",
    # Only ours: see `_PROVIDERS_REQUEST_ID`.
    b"x-upstream-request-id",
}
_NOT_ANSWERED_PREFIXES: Final = (b"x-ratelimit-", b"anthropic-ratelimit-", b"x-metergate-", b"proxy-")
_PROVIDERS_REQUEST_ID: Final = frozenset({b"x-request-id", b"request-id"})  # OpenAI's and Anthropic's name

_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close"})

# What happens to a header, by its name.
_PASSES, _DROPPED, _CONNECTION, _REQUEST_ID, _CONTENT_TYPE, _CONTENT_ENCODING = range(6)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What every request to one provider carries: its lines, and the names of a client's headers that they replace."""

    lines: bytes = field(repr=False)
    replaced: frozenset[bytes]

    @classmethod
    def of(cls, provider_key: str | None, extra: Mapping[str, str]) -> "Fixed":
        """The provider's key goes into `Authorization: Bearer`; `extra` replaces what has its name by then.

        Raises `ValueError` for a name or value that would end its line.
        """
        headers = {"accept-encoding": ("Accept-Encoding", "identity")}
        if provider_key is not None:
            headers["authorization"] = ("Authorization", f"Bearer {provider_key}")
        extra_names = {name.lower() for name in extra}
        for name, value in extra.items():
            headers[name.lower()] = (name, value)
        for name, value in headers.values():
            if any(sign in name + value for sign in "\r\n\0"):
                raise ValueError(f"the header {name!r} holds a line break")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.values())
        return cls(lines.encode(), frozenset(name.encode() for name in extra_names))


class Answered(msgspec.Struct, frozen=True, gc=False):
    """Of a provider's answer: the lines that the client gets, the provider's request id as `x-upstream-request-id`,
    and what the gateway itself looks at."""

    lines: bytes
    content_type: bytes = b""
    content_encoding: str | None = None
    request_id: bytes | None = None


def outgoing(headers: RawHeaders, fixed: Fixed) -> bytes:
    """The lines for the provider, from a client's headers: complete but for Host and framing."""
    lines: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        fate = _OF_CLIENTS[name]
        if fate == _PASSES:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif fate == _CONNECTION and value.lower() not in _PLAIN_CONNECTION:
            named |= _named(value)
    if named or fixed.replaced:
        dropped = named | fixed.replaced
        lines = [line for line in lines if line.partition(b":")[0].lower() not in dropped]
    lines.append(fixed.lines)
    return b"".join(lines)


def incoming(headers: RawHeaders) -> Answered:
    """What becomes of the headers of a provider's answer."""
    lines: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    content_type, encoding, request_id = b"", None, None
    for name, value in headers:
        fate = _OF_PROVIDERS[name]
        if fate == _DROPPED:
            continue
        if fate == _CONNECTION:
            if value.lower() not in _PLAIN_CONNECTION:
                named |= _named(value)
            continue
        if fate == _REQUEST_ID:
            name, request_id = b"x-upstream-request-id", value
        elif fate == _CONTENT_TYPE:
            content_type = value.strip().lower()
        elif fate == _CONTENT_ENCODING:
            encoding = value.decode("latin-1").strip().lower()
        lines.append(b"%b: %b\r\n" % (name, value))
    if named:
        lines = [line for line in lines if line.partition(b":")[0].lower() not in named]
    return Answered(b"".join(lines), content_type, encoding, request_id)


class _Fates(dict[bytes, int]):
    """What happens to headers, by their names as they are spelled: remembered for up to NAMES_KEPT short ones."""

    def __init__(self, find: Callable[[bytes], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, name: bytes) -> int:
        fate = self._find(name)
        if len(self) < NAMES_KEPT and len(name) <= NAME_BYTES:
            self[name] = fate
        return fate


def _fate_of_clients(name: bytes) -> int:
    lower = name.lower()
    if lower == b"connection":
        return _CONNECTION
    return _DROPPED if lower in _NOT_SENT or lower.startswith(_NOT_SENT_PREFIXES) else _PASSES


def _fate_of_providers(name: bytes) -> int:
    lower = name.lower()
    if lower in _PROVIDERS_REQUEST_ID:
        return _REQUEST_ID
    if lower in _NOT_ANSWERED or lower.startswith(_NOT_ANSWERED_PREFIXES):
        return _DROPPED
    return _NOTED.get(lower, _PASSES)


_NOTED: Final = {
    b"connection": _CONNECTION,
    b"content-type": _CONTENT_TYPE,
    b"content-encoding": _CONTENT_ENCODING,
}


_OF_CLIENTS: Final = _Fates(_fate_of_clients)
_OF_PROVIDERS: Final = _Fates(_fate_of_providers)


def client_key(headers: Mapping[str, str]) -> str | None:
    """The key that a client shows: `Authorization: Bearer`, else `x-api-key`, else `x-goog-api-key`; None without."""
    authorization = headers.get("Authorization")
    if authorization is not None:
        if authorization.startswith("Bearer ") and (key := authorization[7:].strip()):  # as nearly everybody has it
            return key
        scheme, _, credentials = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and (key := credentials.strip()):
            return key
    for name in ("x-api-key", "x-goog-api-key"):
        if key := headers.get(name, "").strip():
            return key
    return None


def _named(value: bytes) -> frozenset[bytes]:
    """Lower-case names that `Connection` declares to be for this hop alone (RFC 9110, 7.6.1)."""
    return frozenset(name.strip().lower() for name in value.split(b","))
