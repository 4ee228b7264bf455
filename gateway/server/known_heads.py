"""Heads of metered requests, read strictly, and remembered: equal bytes mean the same, and are read once.

This file owns which heads the front takes (`gateway.server.front`). What it is not sure of it does not take: aiohttp's
server reads it, or refuses it. So nothing is refused here, and of what two parsers could read differently nothing is
read: other methods and versions, other framing than one length, a line that is folded, a name that stands twice,
characters that are not printable ASCII.

A head is remembered without its length by a keyed digest, once a request with it has shown a usable key, and once it
has come a second time: heads that are never the same again take no place. What stands in memory is the digest of the
key, not the key. How many there are is bounded, and how many bytes they have.
"""

from __future__ import annotations

import re
import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.dialects.declared import KEY_HEADERS, key_headers
from gateway.server.exchange import KeptOfHead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.dialects.base import Match

    Find = Callable[[str, str, Mapping[str, str]], Match | None]

# The largest head that is read here.
HEAD_BYTES: Final = 8_192
MOST_LINES: Final = 64
# Heads that are remembered, and their bytes: at most twice as many.
HEADS_KEPT: Final = 4_096
BYTES_KEPT: Final = 2 << 20
DIGEST_BYTES: Final = 16
AUTHORIZATION: Final = "authorization"
CONTENT_LENGTH: Final = "content-length"
HOST: Final = "host"

_REQUEST_LINE: Final = re.compile(rb"POST (/[!-~]*) HTTP/1\.1")
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~](?:[ -~\t]*[!-~])?)?)[ \t]*")
# What says how a request is framed or coded in another way than by its length, or where it goes on.
_ELSEWHERE: Final = frozenset(
    (
        "transfer-encoding",
        "content-encoding",
        "trailer",
        "te",
        "expect",
        "upgrade",
        "http2-settings",
        "proxy-connection",
    )
)
# Secrets that are no keys of this gateway.
_SECRETS: Final = frozenset(("cookie", "proxy-authorization", "x-admin-key"))

Lines = tuple[tuple[bytes, bytes], ...]


class KnownHead:
    """A head as it was read. `key_digest` is that of its key, once that is known; then its headers are without what
    shows the key. `kept` is what was made of it."""

    __slots__ = ("headers", "kept", "key_digest", "match", "path", "raw_headers")

    def __init__(
        self,
        path: str,
        match: Match,
        headers: CIMultiDictProxy[str],
        raw_headers: Lines,
        key_digest: bytes | None = None,
    ) -> None:
        self.path = path
        self.match = match
        self.headers = headers
        self.raw_headers = raw_headers
        self.key_digest = key_digest
        self.kept = KeptOfHead()

    def without_key(self, key_digest: bytes) -> KnownHead | None:
        """Return what may be remembered of it; None where it holds a secret that can't be left out."""
        declared = self.match.dialect.declared
        query = self.path.partition("?")[2]
        if query and declared.key_parameter is not None and declared.key_parameter in unquote_plus(query):
            return None
        shows = frozenset((AUTHORIZATION, *(name.lower() for name in key_headers(declared))))
        kept = tuple((name, value) for name, value in self.raw_headers if name.decode().lower() not in shows)
        if not _SECRETS.isdisjoint(name.decode().lower() for name, _ in kept):
            return None
        return KnownHead(self.path, self.match, _headers(kept), kept, key_digest)


class KnownHeads:
    """The heads of one process. `find` finds the endpoint of a request."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._key = secrets.token_bytes(32)
        # Heads, and digests of those that have come once: the younger half, and the older one, which is dropped next.
        self._young: dict[bytes, KnownHead] = {}
        self._old: dict[bytes, KnownHead] = {}
        self._young_bytes = 0
        self._seen: set[bytes] = set()
        self._seen_before: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def digest(self, lines: bytes) -> bytes:
        """Return by what a head is found; `lines` are all but its length."""
        return blake2b(self._key + lines, digest_size=DIGEST_BYTES).digest()  # as good as a key apart, and cheaper

    def get(self, digest: bytes) -> KnownHead | None:
        """Return a head that is remembered."""
        head = self._young.get(digest)
        if head is None and (head := self._old.get(digest)) is not None:
            self._keep(digest, head)
        return head

    def remember(self, digest: bytes, head: KnownHead, key_digest: bytes) -> None:
        """Note that a request with this head has shown a usable key."""
        if digest not in self._seen and digest not in self._seen_before:
            if len(self._seen) >= HEADS_KEPT:
                self._seen, self._seen_before = set(), self._seen
            self._seen.add(digest)
        elif (kept := head.without_key(key_digest)) is not None:
            self._keep(digest, kept)

    def _keep(self, digest: bytes, head: KnownHead) -> None:
        size_bytes = len(head.path) + sum(len(name) + len(value) for name, value in head.raw_headers)
        if len(self._young) >= HEADS_KEPT or self._young_bytes + size_bytes > BYTES_KEPT:
            self._young, self._old, self._young_bytes = {}, self._young, 0
        self._young[digest] = head
        self._young_bytes += size_bytes

    def read(self, lines: bytes) -> KnownHead | None:
        """Return the head of a metered request with a length, of which `lines` are all others; None where this is not
        sure of it."""
        first, *others = lines.split(b"\r\n")
        asked = _REQUEST_LINE.fullmatch(first)
        if asked is None or len(others) > MOST_LINES:
            return None
        raw_headers = []
        for line in others:
            found = _LINE.fullmatch(line)
            if found is None:
                return None
            raw_headers.append((found[1], found[2]))
        return self._of(asked[1].decode(), tuple(raw_headers))

    def _of(self, path: str, raw_headers: Lines) -> KnownHead | None:
        names = [name.decode().lower() for name, _ in raw_headers]
        if HOST not in names or CONTENT_LENGTH in names or len(set(names)) < len(names):
            return None
        if not _ELSEWHERE.isdisjoint(names) or sum(name in _SHOW_KEYS for name in names) > 1:
            return None
        headers = _headers(raw_headers)
        if headers.get("Connection", "keep-alive").lower() != "keep-alive":
            return None
        match = self._find("POST", path, headers)
        return None if match is None else KnownHead(path, match, headers, raw_headers)


_SHOW_KEYS: Final = frozenset((AUTHORIZATION, *(name.lower() for name in KEY_HEADERS)))


def _headers(raw_headers: Lines) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict((name.decode(), value.decode()) for name, value in raw_headers))
