"""The one request of a delivery: where it may go, how it is signed, bounded in time and in what is read, without
redirects.

Customers choose the URLs of endpoints, so that without a check they could have this machine ask its own network
(server-side request forgery). Names are resolved for each delivery, and connected to is an address that was checked: a
name that resolves to another address a moment later changes nothing. No proxy of the environment is used: it would
resolve the name itself.

Signatures are by Standard Webhooks, with symmetric keys:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from billing.errors import MetergateError

if TYPE_CHECKING:
    import socket

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
MAX_URL: Final = 2000
# So much of an answer is read, so that its connection can be used again; it is not kept.
READ_BYTES: Final = 4096
DEFAULT_TIMEOUT_S: Final = 15.0
# All that is given out of IPv6. Other addresses are this link's, this site's (fc00::/7, and fec0::/10 of old), of
# groups, or stand for IPv4 addresses.
_UNICAST: Final = IPv6Network("2000::/3")
# Networks that older Pythons call global, and that lead to no public server.
_SPECIAL: Final = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments
    IPv4Network("192.88.99.0/24"),  # relays of 6to4, deprecated (RFC 7526)
    IPv4Network("168.63.129.16/32"),  # the host of Azure's virtual machines, seen from these
    IPv6Network("3fff::/20"),  # documentation (RFC 9637)
)
_TRANSLATED: Final = 0x64FF9B << 64
_FORBIDDEN: Final = "the address is private: only public addresses are delivered to"


class DestinationRefused(MetergateError):
    """A URL that nothing is delivered to. The message says why."""

    kind, field = "invalid", "url"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request: `status` of the answer, else None; `error` in one line where it failed."""

    status: int | None
    error: str | None

    @property
    def ok(self) -> bool:
        """Return whether it was taken: any status 2xx."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer: its status, the beginning of its body, and its headers."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public network: none that is private, of this machine or link, shared,
    reserved, of a group, or an IPv6 address that stands for an IPv4 address which is not."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = _embedded(found)
        if inner:
            return all(map(_is_public_ipv4, inner))
        return found in _UNICAST and _is_global(found)
    return _is_public_ipv4(found)


def _is_public_ipv4(address: IPv4Address) -> bool:
    return _is_global(address) and not address.is_multicast and not address.is_reserved


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is global, whatever this Python's own tables lack."""
    return address.is_global and not any(
        address in network for network in _SPECIAL if network.version == address.version
    )


def _embedded(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that one of IPv6 leads to: mapped, through a translator (64:ff9b::/96, RFC 6052), by
    6to4, or by Teredo, whose server is the first."""
    if int(address) >> 32 == _TRANSLATED:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    inner = address.ipv4_mapped or address.sixtofour
    return address.teredo or (() if inner is None else (inner,))


def check_url(url: str, *, private: bool) -> str:
    """Return a URL that deliveries may be sent to, as far as it tells by itself; with `private` also one of http, or of
    a private address. Raises `DestinationRefused`."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise DestinationRefused("url is no URL such as https://example.com/hooks.") from error
    if len(url) > MAX_URL or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise DestinationRefused("url is an https URL such as https://example.com/hooks, of at most 2000 characters.")
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise DestinationRefused("url must begin with https://.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise DestinationRefused("url must hold no user name, password or fragment.")
    if not private and (_is_private_literal(host) or host == "localhost" or host.endswith(".localhost")):
        raise DestinationRefused(f"url: {_FORBIDDEN}.")
    return url


def _is_private_literal(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:
        return host.replace(".", "").isdigit() or host.startswith("0x")  # 127.1, 2130706433: addresses to some


class PublicResolver(AbstractResolver):
    """Resolves names, and fails where any address of one is not public."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        """Resolve by `inner`; None: as this machine does."""
        self._inner = inner or ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = 0) -> list[ResolveResult]:  # type: ignore[assignment]
        """Return the addresses of a name. Raises `OSError`."""
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(each["host"]) for each in found):
            raise PermissionError(errno.EACCES, _FORBIDDEN)
        return found

    async def close(self) -> None:
        """Close what resolves."""
        await self._inner.close()


class Poster:
    """Sends deliveries. Connections are opened as they are needed, and closed with it."""

    def __init__(
        self, *, private: bool, timeout_s: float = DEFAULT_TIMEOUT_S, resolver: AbstractResolver | None = None
    ) -> None:
        """With `private` every address may be sent to; else names are resolved by `resolver` and checked."""
        self._private, self._timeout = private, aiohttp.ClientTimeout(total=timeout_s)
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = self._resolver if self._private else PublicResolver(self._resolver)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Send a body and return what became of it: never raises for what another server does."""
        try:
            answer = await self.ask(url, body, headers, READ_BYTES)
        except DestinationRefused as error:
            return Outcome(None, str(error))
        except TimeoutError:
            return Outcome(None, f"no answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = _FORBIDDEN if _FORBIDDEN in str(error) else type(error).__name__
            return Outcome(None, reason)
        if 200 <= answer.status < 300:
            return Outcome(answer.status, None)
        if 300 <= answer.status < 400:
            return Outcome(answer.status, f"status {answer.status}: redirects are not followed")
        return Outcome(answer.status, f"status {answer.status}")

    async def ask(self, url: str, body: bytes, headers: Mapping[str, str], most_bytes: int) -> Heard:
        """Send a body and return the answer, of whose body at most `most_bytes` are read. Raises `DestinationRefused`,
        and for what another server does `TimeoutError`, `aiohttp.ClientError`, `OSError` and `ValueError`."""
        check_url(url, private=self._private)
        async with self._opened().post(url, data=body, headers=headers, allow_redirects=False) as answer:
            read = b""
            while len(read) < most_bytes and (more := await answer.content.read(most_bytes - len(read))):
                read += more
            return Heard(answer.status, read, answer.headers)

    async def close(self) -> None:
        """Close the connections; what is sent later opens others."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def new_secret() -> str:
    """Return a new secret: `whsec_` and the base64 of 32 random bytes."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """Return the signing key in a secret: the base64 after the prefix, or else the text itself."""
    if secret.startswith(PREFIX):
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    return secret.encode()


def signed_headers(webhook_id: str, at_s: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """Return the headers of a delivery, signed by each key: two of them while a secret is rotated."""
    content = f"{webhook_id}.{at_s}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(at_s)}
    if keys:
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers
