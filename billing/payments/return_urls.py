"""Where payers may be sent from a hosted page: to addresses of the operator's own origins and nowhere else. Pure.

An address that anybody could choose would make the gateway's pages a way to send people to a stranger's
(https://cwe.mitre.org/data/definitions/601.html).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_URL: Final = 2048
_PORTS: Final = {"http": 80, "https": 443}


def origin_of(url: str) -> str | None:
    """Return the origin of a URL, such as `https://app.example.com`; None for what can't be a page's address: another
    scheme, a user's name in it, or characters that browsers read in different ways."""
    if len(url) > MOST_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None or parts.password is not None:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    named = "" if port in (None, _PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{host}{named}"


def origins_of(urls: Iterable[str | None]) -> frozenset[str]:
    """Return the origins of URLs; what has none, such as `*`, is left out."""
    return frozenset(origin for url in urls if url is not None and (origin := origin_of(url)) is not None)
