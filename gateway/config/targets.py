"""A provider's targets in metergate.yaml: base URLs and keys with weights. And how its bill is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

from billing.money import parse_usd
from billing.provider_bills.lines import BASE_URLS, SOURCES, SourceName, Tolerance
from gateway.config.problems import Unset
from gateway.config.reader import is_url
from gateway.config.secret import Secret
from gateway.config.sections import decimal, read_by, read_section, text
from gateway.upstream.health import MAX_WEIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.config.source import Value

HEADER_TEXT: Final = re.compile(r"[!-~]([ -~]{0,4094}[!-~])?", re.ASCII)
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_OWN_HEADERS: Final = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
MAX_TARGETS: Final = 64
_PORTS: Final = {"http": 80, "https": 443}


def read_base_url(value: Value) -> str | None:
    """Return a base URL as written, its query included; a problem for anything else."""
    text = value.text("a URL that begins with https:// or http://")
    if text is None:
        return None
    if not is_url(text) or any(mark in text for mark in "#@"):
        value.expected("a URL that begins with https:// or http://, without user or fragment", secret=True)
        return None
    return text


class Key(NamedTuple):
    """A key of a file; where the file names a variable that is unset there is none, and what it is for is off."""

    secret: Secret | None
    off_reason: str | None = None


NO_KEY: Final = Key(None)


def read_key(value: Value) -> Key | None:
    """Return the key, or why there is none; None for what is wrong, which is noted."""
    name = value.key.rpartition(".")[2]
    if value.is_null:
        return Key(None, f"{name} is empty")
    if not value.is_string:
        value.expected("a text, such as ${NAME}", secret=True)
        return None
    try:
        found = value.expand()
    except Unset as unset:
        return Key(None, f"{unset.variable} is not set")
    except ValueError as error:
        value.problem(str(error))
        return None
    if not found:
        return Key(None, f"{name} is empty")
    if not HEADER_TEXT.fullmatch(found):
        value.problem("the key holds characters that no header can carry")
        return None
    return Key(Secret(found))


def _read_headers(value: Value) -> dict[str, str]:
    """Return the headers that are sent with every request, by their names."""
    headers = {}
    for name, entry in value.entries().items():
        text = entry.text()
        if not HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            entry.problem("not a header that can be set here")
        elif text is not None and not HEADER_TEXT.fullmatch(text):
            entry.problem("the text holds characters that no header can carry")
        elif text is not None:
            headers[name] = text
    return headers


BaseUrl = Annotated[str, read_by(read_base_url)]
ApiKey = Annotated[Key, read_by(read_key, null=True)]
Headers = Annotated[dict[str, str], read_by(_read_headers)]


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """One place to send a provider's requests to. `base_url` has no slash at its end, `base_query` is what stood behind
    its `?` and may hold a secret, as `headers`, which are sent with every request there; a target whose key variable is
    unset is not in the list."""

    base_url: str
    api_key: Secret | None = None
    weight: int = 1
    base_query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def origin(self) -> tuple[str, str | None, int | None]:
        """Return the scheme, host and port of its base URL: what a key is for."""
        url = urlsplit(self.base_url)
        return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


class Target(Struct, frozen=True):
    """A target as the file has it."""

    base_url: BaseUrl | None = None
    api_key: ApiKey | None = None
    weight: Annotated[int, Meta(ge=1, le=MAX_WEIGHT)] = 1
    headers: Headers | None = None


def targets_beside(own: TargetConfig, own_off: str | None, given: Sequence[Target]) -> tuple[TargetConfig, ...]:
    """Return the targets that are on; one that leaves out its URL has that of `own`, the provider's entry.

    The entry's key and headers are sent to the entry's own origin alone: a target elsewhere that leaves them out has
    none. `own_off` says why the entry's key can't be used, None where it can.
    """
    found = []
    for each in given:
        url = each.base_url
        base_url, _, base_query = (own.base_url, "", own.base_query) if url is None else url.partition("?")
        target = TargetConfig(base_url.rstrip("/"), None, each.weight, base_query)
        is_own = target.origin == own.origin
        key = each.api_key or (Key(own.api_key, own_off) if is_own else NO_KEY)
        headers = (own.headers if is_own else {}) if each.headers is None else each.headers
        if key.off_reason is None:
            found.append(TargetConfig(target.base_url, key.secret, each.weight, base_query, headers))
    return tuple(found)


class BillingConfig(Struct, frozen=True, kw_only=True, rename={"given_key": "key", "tolerance_nano": "tolerance_usd"}):
    """How a provider's bill is read and compared: from which API, below which base URL, with which key, which is not
    one that models are asked with: where its variable is unset nothing is fetched. `keys` are the provider's own ids of
    keys, projects or workspaces that this gateway uses, `providers` further entries that are on the same bill."""

    given_key: ApiKey
    source: SourceName | None = None
    base_url: BaseUrl = ""
    keys: tuple[Annotated[str, text("an id of the provider's")], ...] = ()
    providers: tuple[Annotated[str, text("a provider's name")], ...] = ()
    tolerance_nano: Annotated[int, decimal(parse_usd, "0.01")] = Tolerance().nano
    tolerance_percent: Annotated[float, Meta(ge=0, le=100)] = Tolerance().hundredths_of_percent / 100

    @property
    def key(self) -> Secret | None:
        """Return the key; None where its variable is unset."""
        return self.given_key.secret


def read_billing(value: Value, vendor: str) -> BillingConfig | None:
    """Return how the bill of a provider of a kind is read; None where it says it wrongly, which is a problem."""
    found = read_section(value, BillingConfig)
    if found is None:
        return None
    source: SourceName | None = found.source or next((each for each in SOURCES if each == vendor), None)
    if source is None:
        value.missing("source")
        return None
    if found.tolerance_nano < 0:
        value.entries()["tolerance_usd"].problem("not below zero")
    base_url = (found.base_url or BASE_URLS[source]).rstrip("/")
    return structs.replace(found, source=source, base_url=base_url)
