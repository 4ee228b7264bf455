"""Which headers pass between a client and a provider. Pure functions on bytes.

What an API adds to the lists here is declared by its dialect.

What nobody lists stays here, in both directions: a client's headers may hold keys for others and say where it sits,
and a provider's would act on the gateway's whole origin, or on a proxy in front of it.

Headers come as the parsers give them, pairs of bytes, and leave as lines that end with CRLF: nothing in between is
decoded or built, because this runs for every request in both directions. A name or value with CR, LF or NUL can't
arrive here: aiohttp's and httptools' parsers refuse the message.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from gateway.dialects.declared import never_sent, of_all
from gateway.upstream.base import RawHeaders

NAMES_KEPT: Final = 4_096
# Spellings of names whose treatment is remembered: how many, and how long.
NAME_BYTES: Final = 64


def _names(*names: str) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in names)


# Of a client's headers those that every provider gets, in lower case; a provider's `pass_headers` add to them.
_SENT: Final = frozenset(_names("accept", "accept-language", "user-agent", *of_all(lambda each: each.sent_headers)))
_SENT_PREFIXES: Final = _names(*of_all(lambda each: each.sent_prefixes))
# Of a provider's headers those that a client gets as they are, in lower case.
_ANSWERED: Final = frozenset(
    _names(
        "content-disposition",
        "content-language",
        # When to ask again, as the SDKs read it.
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        # The id of what stands before most vendors' servers.
        "cf-ray",
        *of_all(lambda each: each.answer_headers),
    )
)
# The operator's own limits at the provider: a client gets them as `x-upstream-…`, for `x-ratelimit-…` are ours.
_RENAMED_PREFIXES: Final = _names(*of_all(lambda each: each.renamed_prefixes))
_PROVIDERS_REQUEST_ID: Final = frozenset(_names(*of_all(lambda each: each.request_id_headers)))

_COLON: Final = b": "
_LINE_END: Final = b"\r\n"
_PLAIN_CONNECTION: Final = frozenset({b"keep-alive", b"close"})

# What happens to a header, by its name.
(
    _DROPPED,
    _PASSES,
    _CONNECTION,
    _REQUEST_ID,
    _CONTENT_TYPE,
    _CONTENT_ENCODING,
    _RENAMED,
    _IDEMPOTENCY_KEY,
    _CACHING,
) = range(9)


class _Policy(dict[bytes, tuple[int, bytes]]):
    """What happens to headers, and how their lines begin on the other side, by their names as they are spelled:
    remembered for up to NAMES_KEPT short ones."""

    def __init__(self, find: Callable[[bytes], int]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, name: bytes) -> tuple[int, bytes]:
        action, shown = self._find(name.lower()), name
        if action == _REQUEST_ID:
            shown = b"x-upstream-request-id"
        elif action == _RENAMED:
            shown = b"x-upstream-" + name.lower().removeprefix(b"x-")
        made = action, shown + _COLON
        if len(self) < NAMES_KEPT and len(name) <= NAME_BYTES:
            self[name] = made
        return made


@dataclass(frozen=True, slots=True)
class Fixed:
    """What every request to one provider carries, and what happens to a client's headers on the way there."""

    lines: bytes = field(repr=False)
    policy: _Policy = field(repr=False, compare=False)

    @classmethod
    def of(cls, auth: tuple[str, str] | None, extra: Mapping[str, str], passed: Iterable[str] = ()) -> "Fixed":
        """Return the rules of a provider. `auth` is the header that shows the provider's key, None where it wants none;
        `extra` replaces what has its name by then. `passed` are names of a client's headers that this provider gets
        beside those that every provider gets.

        Raises `ValueError` for a name or value that would end its line, and for a name that never passes.
        """
        headers = {
            "accept-encoding": ("Accept-Encoding", "identity"),
            # As what it was read here: a server that obeyed a client's charset would read other fields from it.
            "content-type": ("Content-Type", "application/json"),
        }
        if auth is not None:
            headers[auth[0].lower()] = auth
        for name, value in extra.items():
            headers[name.lower()] = (name, value)
        for name, value in headers.values():
            if any(sign in name + value for sign in "\r\n\0"):
                raise ValueError(f"the header {name!r} holds a line break")
        for name in passed:
            if never_sent(name):
                raise ValueError(f"the header {name!r} never passes")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.values())
        replaced = frozenset(name.encode() for name in headers.keys() - {"accept-encoding", "content-type"})
        sent = _SENT | {name.lower().encode() for name in passed}
        return cls(lines.encode(), _Policy(lambda name: _of_client(name, sent, replaced)))


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """Of a provider's answer: the lines that the client gets, the provider's request id as `x-upstream-request-id`,
    and what the gateway itself looks at."""

    lines: bytes
    content_type: bytes = b""
    content_encoding: str | None = None
    request_id: bytes | None = None


NO_HEAD: Final = ResponseHead(b"")


def outgoing(headers: RawHeaders, fixed: Fixed, account_id: str) -> bytes:
    """Return the lines for the provider, from the headers of an account's client: complete but for Host and framing."""
    lines: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    policy = fixed.policy
    for name, value in headers:
        action, begins = policy[name]
        if not action:  # dropped, as most are
            continue
        if action == _PASSES:
            lines.append(begins + value)
        elif action == _CONNECTION:
            if value.lower() not in _PLAIN_CONNECTION:
                named |= _named(value)
        elif action == _IDEMPOTENCY_KEY and value.strip():
            lines.append(b"Idempotency-Key: " + _own_idempotency_key(account_id, value))
    if named:
        lines = _without(lines, named)
    lines.append(fixed.lines)
    return _LINE_END.join(lines)


def incoming(headers: RawHeaders, own: bytes = b"", *, private: bool = False) -> ResponseHead:
    """Return what becomes of the headers of a provider's answer; `own` are lines that the client gets before them. With
    `private` these say what caches may do, and not the provider."""
    lines: list[bytes] = []
    named: frozenset[bytes] = frozenset()
    content_type, encoding, request_id = b"", None, None
    policy = _OF_PROVIDERS
    for name, value in headers:
        action, begins = policy[name]
        if not action:
            continue
        if action == _CONNECTION:
            if value.lower() not in _PLAIN_CONNECTION:
                named |= _named(value)
            continue
        if action != _PASSES:
            if action == _CACHING and private:
                continue
            if action == _REQUEST_ID:
                request_id = value
            elif action == _CONTENT_TYPE:
                content_type = value.strip().lower()
            elif action == _CONTENT_ENCODING:
                encoding = value.decode("latin-1").strip().lower()
        lines.append(begins + value)
    if named:
        lines = _without(lines, named)
    lines.append(b"")
    return ResponseHead(own + _LINE_END.join(lines), content_type, encoding, request_id)


def _without(lines: list[bytes], named: frozenset[bytes]) -> list[bytes]:
    """Return lines but for those of names that are for this hop alone."""
    return [line for line in lines if line.partition(_COLON)[0].lower() not in named]


def _of_client(name: bytes, sent: frozenset[bytes], replaced: frozenset[bytes]) -> int:
    if name == b"connection":
        return _CONNECTION
    if name in replaced:
        return _DROPPED
    if name == b"idempotency-key":
        return _IDEMPOTENCY_KEY
    return _PASSES if name in sent or name.startswith(_SENT_PREFIXES) else _DROPPED


def _of_provider(name: bytes) -> int:
    if name in _PROVIDERS_REQUEST_ID:
        return _REQUEST_ID
    if name.startswith(_RENAMED_PREFIXES):
        return _RENAMED
    return _PASSES if name in _ANSWERED else _NOTED.get(name, _DROPPED)


_NOTED: Final = {
    b"cache-control": _CACHING,
    b"connection": _CONNECTION,
    b"content-type": _CONTENT_TYPE,
    b"content-encoding": _CONTENT_ENCODING,
}
_OF_PROVIDERS: Final = _Policy(_of_provider)


def _own_idempotency_key(account_id: str, value: bytes) -> bytes:
    """Return the key that a provider gets for a client's: all accounts share the operator's account there, so that two
    which choose the same key would get each other's answers."""
    return hashlib.sha256(b"%b\0%b" % (account_id.encode(), value.strip())).hexdigest().encode()


def _named(value: bytes) -> frozenset[bytes]:
    """Return lower-case names that `Connection` declares to be for this hop alone (RFC 9110, 7.6.1)."""
    return frozenset(name.strip().lower() for name in value.split(b","))
