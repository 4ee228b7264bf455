"""Reading one environment variable: its default, its parser, and how a wrong one is reported. The parsers are pure."""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from billing.money import MAX_NANO, parse_usd
from billing.prices import FACTOR_SCALE
from gateway.config.problems import Problems
from gateway.config.secret import KEY_CHARACTERS, MAKE_A_KEY, Secret, long_enough
from gateway.config.variables import SETTINGS_VARIABLES

T = TypeVar("T")
PLACE: Final = "environment"
_DURATION: Final = re.compile(r"(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s?)?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)
_PER_BYTE: Final = re.compile(r"(\d{1,10})(?:\.(\d{1,18}))?", re.ASCII)


class Reader:
    """Reads variables by name with the defaults of `variables.py`, and notes what is wrong with them."""

    def __init__(self, environ: Mapping[str, str], problems: Problems) -> None:
        self._environ, self.problems, self.seen = environ, problems, set[str]()

    def given(self, name: str) -> str | None:
        """What the environment says, without blanks around it; None when unset or set to nothing."""
        self.seen.add(name)
        return self._environ.get(name, "").strip() or None

    def text(self, name: str) -> str:
        return self.given(name) or SETTINGS_VARIABLES[name].default

    def maybe(self, name: str) -> str | None:
        return self.text(name) or None

    def secret(self, name: str) -> Secret | None:
        text = self.given(name)
        return None if text is None else Secret(text)

    def key(self, name: str) -> Secret | None:
        """A secret that whoever can reach the gateway may try to guess."""
        secret = self.secret(name)
        if secret is not None and not long_enough(secret):
            self.problems.add(PLACE, name, f"expected at least {KEY_CHARACTERS} characters; {MAKE_A_KEY} makes some")
        return secret

    def wrong(self, name: str, expected: str) -> None:
        shown = "" if SETTINGS_VARIABLES[name].secret else f', got "{self.text(name)[:60]}"'
        self.problems.add(PLACE, name, f"expected {expected}{shown}")

    def parsed(self, name: str, parse: Callable[[str], T | None], expected: str, fallback: T) -> T:
        """A variable by a parser that gives None for a wrong text."""
        text = self.text(name)
        value = parse(text) if text else fallback
        if value is None:
            self.wrong(name, expected)
            return fallback
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        def parse(text: str) -> int | None:
            return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and low <= int(text) <= high else None

        return self.parsed(name, parse, f"a whole number from {low} to {high}", low)

    def url(self, name: str, schemes: Collection[str] = ("https", "http")) -> str | None:
        """A URL without a slash at its end, or None."""

        def parse(text: str) -> str | None:
            return text.rstrip("/") if is_url(text, schemes) else None

        return self.parsed(name, parse, f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}", "") or None

    def secret_url(self, name: str, schemes: Collection[str]) -> Secret | None:
        url = self.url(name, schemes)
        return None if url is None else Secret(url)

    def needs(self, name: str, other: str) -> None:
        """A problem when `name` is set without `other`."""
        if self.given(name) is not None and self.given(other) is None:
            self.problems.add(PLACE, other, f"expected a value, because {name} is set")


def is_url(text: str, schemes: Collection[str] = ("https", "http")) -> bool:
    """Whether a text is an absolute URL of one of these schemes with a host and no blanks. A socket's folder may stand
    in its place: as the path of `unix:`, or as Postgres's `?host=/folder`."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    socket = parse_qs(parts.query).get("host", [""])[0].startswith("/")
    place = parts.path if parts.scheme == "unix" else parts.hostname or socket
    return parts.scheme in schemes and bool(place) and not any(c.isspace() or not c.isprintable() for c in text)


def parse_listen(text: str) -> tuple[str, int] | None:
    """Host and port of `0.0.0.0:8080`, `:8080`, `[::1]:8080` or `name:8080`; None for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        return None
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            return None
    if host and not _HOST.fullmatch(host):
        return None
    return host or "0.0.0.0", int(port)  # noqa: S104 - what an address without a host means everywhere


def parse_duration_s(text: str) -> int | None:
    """Whole seconds, 1 to 86,400, of `90`, `90s`, `1m`, `1h30m`; None for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total_s = hours * 3600 + minutes * 60 + seconds
    return total_s if 1 <= total_s <= 86_400 else None


def parse_per_byte(text: str) -> int | None:
    """Nano-USD per byte times `FACTOR_SCALE`, of a decimal of USD with at most 18 decimals; None for anything else."""
    match = _PER_BYTE.fullmatch(text)
    if match is None:
        return None
    scaled = int(match[1]) * 10**18 + int((match[2] or "").ljust(18, "0"))
    return scaled if scaled <= MAX_NANO * FACTOR_SCALE else None


def parse_amount(text: str) -> int | None:
    """Nano-USD of a decimal of USD that is not below zero; None for anything else."""
    try:
        nano = parse_usd(text)
    except ValueError:
        return None
    return nano if nano >= 0 else None


def parse_origins(text: str) -> tuple[str, ...] | None:
    """Origins (RFC 6454: scheme, host, port) separated by commas, or `*` alone; None for anything else."""
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    plain = all(is_url(origin) and origin.count("/") == 2 for origin in origins)
    return origins if origins == ("*",) or plain else None
