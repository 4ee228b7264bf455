"""A provider's targets in metergate.yaml: base URLs and keys with weights, and when one that fails is left alone. And
how its bill is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from billing.money import parse_usd
from billing.provider_bills.answers import BASE_URLS, SOURCES, SourceName
from billing.provider_bills.lines import Tolerance
from gateway.config.problems import Unset
from gateway.config.reader import is_url
from gateway.config.secret import Secret
from gateway.upstream.health import (
    MAX_COOLDOWN_S,
    MAX_FAILURES,
    MAX_PROBE_S,
    MAX_WEIGHT,
    MIN_COOLDOWN_S,
    MIN_PROBE_S,
    Cooldown,
)

if TYPE_CHECKING:
    from gateway.config.source import Section, Value

HEADER_TEXT: Final = re.compile(r"[!-~]([ -~]{0,4094}[!-~])?", re.ASCII)
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_OWN_HEADERS: Final = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
MAX_TARGETS: Final = 64
_TARGET_KEYS: Final = ("base_url", "api_key", "weight", "headers")
_PORTS: Final = {"http": 80, "https": 443}
_BILLING_KEYS: Final = ("key", "source", "base_url", "keys", "providers", "tolerance_usd", "tolerance_percent")
_COOLDOWN_KEYS: Final = ("failures", "seconds", "retry_after_s", "probe_s")


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


def read_targets(value: Value, own: TargetConfig, own_off: str | None = None) -> tuple[TargetConfig, ...]:
    """Return the targets of a list; one that leaves out its URL has that of `own`, the provider's entry.

    The entry's key and headers are sent to the entry's own origin alone: a target elsewhere that leaves them out has
    none. `own_off` says why the entry's key can't be used, None where it can.
    """
    items = value.items()
    if len(items) > MAX_TARGETS:
        value.problem(f"at most {MAX_TARGETS} targets")
    targets = []
    for item in items:
        section = item.section(_TARGET_KEYS)
        url = section.maybe("base_url", read_base_url)
        base_url, _, base_query = (own.base_url, "", own.base_query) if url is None else url.partition("?")
        weight = section.read("weight", lambda each: each.whole(1, MAX_WEIGHT), 1)
        key, off_reason = read_key(section)
        headers = section.maybe("headers", read_headers)
        target = TargetConfig(base_url.rstrip("/"), key, weight, base_query, headers or {})
        if target.origin == own.origin:
            if "api_key" not in section.values:
                target, off_reason = replace(target, api_key=own.api_key), own_off
            if headers is None:
                target = replace(target, headers=own.headers)
        if section.ok and off_reason is None:
            targets.append(target)
    return tuple(targets)


def read_headers(value: Value) -> dict[str, str]:
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


def read_cooldown(value: Value) -> Cooldown | None:
    """Return the bounds of a provider's cool-down; None where one is wrong, which is a problem."""
    section, plain = value.section(_COOLDOWN_KEYS), Cooldown()
    failures = section.read("failures", lambda value: value.whole(1, MAX_FAILURES), plain.failures)
    seconds = section.read("seconds", lambda value: value.number(MIN_COOLDOWN_S, MAX_COOLDOWN_S), plain.seconds)
    retry_after_s = section.read("retry_after_s", lambda value: value.number(0, MAX_COOLDOWN_S), plain.retry_after_s)
    probe_s = section.read("probe_s", lambda value: value.number(MIN_PROBE_S, MAX_PROBE_S), plain.probe_s)
    return Cooldown(failures, seconds, retry_after_s, probe_s) if section.ok else None


@dataclass(frozen=True, slots=True)
class BillingConfig:
    """How a provider's bill is read and compared: from which API, below which base URL, with which key, which is not
    one that models are asked with. `key` is None where its variable is unset: nothing is fetched then. `keys` are the
    provider's own ids of keys, projects or workspaces that this gateway uses, `providers` further entries that are on
    the same bill."""

    source: SourceName
    base_url: str
    key: Secret | None = None
    keys: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    tolerance_nano: int = Tolerance().nano
    tolerance_percent: float = Tolerance().hundredths_of_percent / 100


def read_billing(value: Value, vendor: str) -> BillingConfig | None:
    """Return how the bill of a provider of a kind is read; None where it says it wrongly, which is a problem."""
    section = value.section(_BILLING_KEYS, ("key",))
    source = section.read("source", lambda each: each.choice(SOURCES), vendor if vendor in SOURCES else "")
    if source not in SOURCES:
        section.require(("source",))
        return None
    base_url = section.read("base_url", read_base_url, BASE_URLS[source]).rstrip("/")
    key, _ = read_key(section, "key")
    keys = section.maybe("keys", lambda each: each.names("an id of the provider's")) or ()
    providers = section.maybe("providers", lambda each: each.names("a provider's name")) or ()
    nano = section.read("tolerance_usd", lambda each: each.decimal(parse_usd, "0.01"), Tolerance().nano)
    percent = section.read("tolerance_percent", lambda each: each.number(0, 100), 1.0)
    if nano < 0:
        section.values["tolerance_usd"].problem("not below zero")
    return BillingConfig(source, base_url, key, keys, providers, nano, percent) if section.ok else None


def read_key(section: Section, name: str = "api_key") -> tuple[Secret | None, str | None]:
    """Return the key and, where the file names one that is unset, why the provider is off."""
    value = section.values.get(name)
    if value is None:
        return None, None
    if value.is_null:
        return None, f"{name} is empty"
    if not value.is_string:
        value.expected("a text, such as ${NAME}", secret=True)
        return None, None
    try:
        text = value.expand()
    except Unset as unset:
        return None, f"{unset.variable} is not set"
    except ValueError as error:
        value.problem(str(error))
        return None, None
    if not text:
        return None, f"{name} is empty"
    if not HEADER_TEXT.fullmatch(text):
        value.problem("the key holds characters that no header can carry")
        return None, None
    return Secret(text), None


def read_base_url(value: Value) -> str | None:
    """Return a base URL as written, its query included; a problem for anything else."""
    text = value.text("a URL that begins with https:// or http://")
    if text is None:
        return None
    if not is_url(text) or any(mark in text for mark in "#@"):
        value.expected("a URL that begins with https:// or http://, without user or fragment", secret=True)
        return None
    return text
