"""One environment variable: how it is declared, how it is read, and how a wrong one is reported. Parsers are pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from billing.money import parse_usd
from gateway.config.secret import KEY_CHARACTERS, MAKE_A_KEY, SIGNING_BYTES, Secret, long_enough

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gateway.config.problems import Problems

T = TypeVar("T")
# Who reads: some defaults are those of one command, and some values are needed to serve alone.
Mode = Literal["serve", "up", "command"]
PLACE: Final = "environment"
_DURATION: Final = re.compile(r"(?:(\d{1,5})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s?)?", re.ASCII)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable as users know it. `default` is the text that an unset one stands for, empty where there is none."""

    name: str
    default: str
    help: str
    secret: bool = False


class Reader:
    """Reads variables by name, and notes what is wrong with them. A variable that is set to nothing counts as unset, so
    that `NAME=` in an environment file means the default."""

    def __init__(
        self, environ: Mapping[str, str], mode: Mode, problems: Problems, variables: Mapping[str, Variable]
    ) -> None:
        self.mode, self.problems, self.seen = mode, problems, set[str]()
        self._environ, self._variables = environ, variables

    def given(self, name: str) -> str | None:
        """Return what the environment says, without blanks around it; None when unset or set to nothing."""
        self.seen.add(name)
        return self._environ.get(name, "").strip() or None

    def text(self, name: str) -> str:
        """Return the variable's text, or its default."""
        return self.given(name) or self._variables[name].default

    def maybe(self, name: str) -> str | None:
        """Return the same, None where it is empty."""
        return self.text(name) or None

    def secret(self, name: str) -> Secret | None:
        """Return a secret as it is given."""
        text = self.given(name)
        return None if text is None else Secret(text)

    def key(self, name: str) -> Secret | None:
        """Return a secret that anybody who reaches the gateway may try to guess; a problem where it is short."""
        secret = self.secret(name)
        if secret is not None and not long_enough(secret):
            self.problems.add(PLACE, name, f"expected at least {KEY_CHARACTERS} characters; {MAKE_A_KEY} makes some")
        return secret

    def signing_secret(self, name: str) -> Secret | None:
        """Return a secret by which tokens are signed, which whoever has one token may try to guess; a problem where it
        is short."""
        secret = self.secret(name)
        if secret is not None and len(secret.reveal().encode()) < SIGNING_BYTES:
            self.problems.add(PLACE, name, f"expected at least {SIGNING_BYTES} bytes; {MAKE_A_KEY} makes some")
        return secret

    def wrong(self, name: str, expected: str) -> None:
        """Record that a variable is wrong; its value is shown unless it is a secret."""
        shown = "" if self._variables[name].secret else f', got "{self.text(name)[:60]}"'
        self.problems.add(PLACE, name, f"expected {expected}{shown}")

    def parsed(self, name: str, parse: Callable[[str], T | None], expected: str, fallback: T) -> T:
        """Return a variable by a parser that gives None for a wrong text; `fallback` for that and for an empty one."""
        text = self.text(name)
        value = parse(text) if text else fallback
        if value is None:
            self.wrong(name, expected)
            return fallback
        return value

    def whole(self, name: str, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`."""

        def parse(text: str) -> int | None:
            return int(text) if re.fullmatch(r"[0-9]{1,18}", text) and low <= int(text) <= high else None

        return self.parsed(name, parse, f"a whole number from {low} to {high}", low)

    def url(self, name: str, schemes: Collection[str] = ("https", "http")) -> str | None:
        """Return a URL without a slash at its end, or None."""

        def parse(text: str) -> str | None:
            return text.rstrip("/") if is_url(text, schemes) else None

        return self.parsed(name, parse, f"a URL that begins with {' or '.join(f'{s}://' for s in schemes)}", "") or None

    def secret_url(self, name: str, schemes: Collection[str]) -> Secret | None:
        """Return a URL that may hold a password."""
        url = self.url(name, schemes)
        return None if url is None else Secret(url)

    def needs(self, name: str, other: str) -> None:
        """Note a problem when `name` is set without `other`."""
        if self.given(name) is not None and self.given(other) is None:
            self.problems.add(PLACE, other, f"expected a value, because {name} is set")


def declare(how: Callable[[Reader], object], *variables: Variable) -> Any:
    """Declare a field that is read by `how`, out of variables that no other field declares."""
    return field(metadata={"read": how, "variables": variables})


def _declaring(how: Callable[[Reader, str], object], *, secret: bool = False) -> Callable[..., Any]:
    """Return what declares a field of one variable, which is read by `how`."""

    def declare_one(name: str, help_text: str, default: str = "") -> Any:
        return declare(lambda read: how(read, name), Variable(name, default, help_text, secret))

    return declare_one


# Declares a text; an unset one without a default is empty.
declare_text = _declaring(Reader.text)
# Declares a text that is None when unset.
declare_optional = _declaring(Reader.maybe)
# Declares an http(s) URL, without a slash at its end.
declare_url = _declaring(Reader.url)
declare_secret = _declaring(Reader.secret, secret=True)
# Declares a secret that anybody who reaches the gateway may try to guess.
declare_key = _declaring(Reader.key, secret=True)
# Declares a secret by which tokens are signed.
declare_signing_secret = _declaring(Reader.signing_secret, secret=True)


def declare_secret_url(name: str, schemes: Collection[str], help_text: str) -> Any:
    """Declare a URL of one of `schemes` that may hold a password."""
    variable = Variable(name, "", help_text, secret=True)
    return declare(lambda read: read.secret_url(name, schemes), variable)


def declare_whole(name: str, default: int, low: int, high: int, help_text: str) -> Any:
    """Declare a whole number from `low` to `high`."""
    return declare(lambda read: read.whole(name, low, high), Variable(name, str(default), help_text))


def declare_parsed(
    name: str,
    parse: Callable[[str], object],
    expected: str,
    fallback: object,
    help_text: str,
    default: str = "",
) -> Any:
    """Declare a variable with a parser, which gives None for a wrong text: `fallback` is taken, `expected` shown."""
    return declare(lambda read: read.parsed(name, parse, expected, fallback), Variable(name, default, help_text))


def is_url(text: str, schemes: Collection[str] = ("https", "http")) -> bool:
    """Return whether a text is an absolute URL of one of these schemes with a host and no blanks. A socket's folder may
    stand in its place: as the path of `unix:`, or as Postgres's `?host=/folder`."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    socket = parse_qs(parts.query).get("host", [""])[0].startswith("/")
    target = parts.path if parts.scheme == "unix" else parts.hostname or socket
    return parts.scheme in schemes and bool(target) and not any(c.isspace() or not c.isprintable() for c in text)


def parse_listen(text: str) -> tuple[str, int] | None:
    """Return host and port of `0.0.0.0:8080`, `:8080`, `[::1]:8080` or `name:8080`; None for anything else."""
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


def joined_address(host: str, port: int) -> str:
    """Return `HOST:PORT`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_duration_s(text: str) -> int | None:
    """Return whole seconds, 1 to 86,400, of `90`, `90s`, `1m`, `1h30m`; None for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    total_s = hours * 3600 + minutes * 60 + seconds
    return total_s if 1 <= total_s <= 86_400 else None


def parse_amount(text: str) -> int | None:
    """Return nano-USD of a decimal of USD that is not below zero; None for anything else."""
    try:
        nano = parse_usd(text)
    except ValueError:
        return None
    return nano if nano >= 0 else None


def parse_origins(text: str) -> tuple[str, ...] | None:
    """Return origins (RFC 6454: scheme, host, port) separated by commas, or `*` alone; None for anything else."""
    origins = tuple(origin.strip() for origin in text.split(",") if origin.strip())
    plain = all(is_url(origin) and origin.count("/") == 2 for origin in origins)
    return origins if origins == ("*",) or plain else None
