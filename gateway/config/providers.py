"""Providers of metergate.yaml, and what a provider's kind fills in. This file owns what a provider may say.

A provider whose key variable is unset is off, with the reason; its models stay listed, so that an operator sees what a
key would bring. What an entry says itself goes before what is usual for its kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

from gateway.config.secret import Secret
from gateway.config.source import Value
from gateway.config.targets import (
    HEADER_NAME,
    BillingConfig,
    TargetConfig,
    read_base_url,
    read_billing,
    read_cooldown,
    read_headers,
    read_key,
    read_targets,
)
from gateway.dialects.declared import DECLARED, never_sent
from gateway.dialects.openai.vendors import COMPATIBLE, OPENAI, MaxOutputField, default_max_field, usual_dialects
from gateway.upstream.health import Cooldown

ProviderKind = Literal["openai", "anthropic", "gemini", "local"]
ZeroUsage = Literal["trust", "estimate"]
KINDS: Final[tuple[str, ...]] = get_args(ProviderKind)
ZERO_USAGES: Final[tuple[str, ...]] = get_args(ZeroUsage)
MAX_OUTPUT_FIELDS: Final[tuple[str, ...]] = get_args(MaxOutputField)
MAX_DELAY_MS: Final = 600_000
MAX_DRAIN_S: Final = 3600
"""As `disconnect_drain_s` of `defaults` is bounded."""
MAX_PASSED: Final = 64
_PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_DIALECT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_REMOTE_KEYS: Final = (
    "kind",
    "base_url",
    "api_key",
    "headers",
    "pass_headers",
    "enabled",
    "disconnect_drain_s",
    "max_output_field",
    "stream_usage",
    "zero_usage",
    "dialects",
    "targets",
    "cooldown",
    "billing",
)
_LOCAL_KEYS: Final = ("kind", "delay_ms", "chunk_delay_ms", "enabled", "disconnect_drain_s")
_PROVIDER_KEYS: Final = (*_REMOTE_KEYS, "delay_ms", "chunk_delay_ms")
_KEYS_OF_KIND: Final = {kind: _LOCAL_KEYS if kind == "local" else _REMOTE_KEYS for kind in KINDS}
_PATHS_OF_KIND: Final[Mapping[str, Mapping[str, str]]] = {
    **{name: declared.provider_paths for name, declared in DECLARED.items()},
    "local": {"openai": "/v1", "anthropic": "", "gemini": ""},
}
"""The dialects that a kind serves, and what stands between its `base_url` and a dialect's own paths."""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A place that answers. `base_url` has no slash at its end and is empty for `local`; `base_query` is what stood in
    it behind `?`, and may hold a secret; `off_reason` says why it is off, for the operator. `headers` are sent with
    every request and may hold secrets; `pass_headers` are names of clients' headers that it gets beside those that
    every provider gets. `disconnect_drain_s` replaces that of `defaults`, in seconds; `max_output_field` is the field
    in which it takes the maximum of a chat's output. `dialects` are the base URLs, which may hold secrets, of further
    dialects that it serves, by name, and of that of its kind where it has another. `targets` are the base URLs and keys
    that it is asked by, where they are not those of the entry, and `cooldown` says when one that fails is left
    alone. `stream_usage`: a stream may be asked for its usage by `stream_options`. `zero_usage`: whether an answer
    that counts nothing at all is believed, or estimated as one without usage. `billing` is how its bill is read."""

    name: str
    kind: ProviderKind
    base_url: str = ""
    api_key: Secret | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    off_reason: str | None = None
    delay_ms: int = 0
    chunk_delay_ms: int = 0
    disconnect_drain_s: float | None = None
    max_output_field: MaxOutputField = "max_tokens"
    pass_headers: tuple[str, ...] = ()
    base_query: str = field(default="", repr=False)
    dialects: Mapping[str, str] = field(default_factory=dict, repr=False)
    targets: tuple[TargetConfig, ...] = ()
    cooldown: Cooldown = field(default_factory=Cooldown)
    stream_usage: bool = True
    zero_usage: ZeroUsage = "estimate"
    billing: BillingConfig | None = None

    @property
    def enabled(self) -> bool:
        """Return whether requests may go there."""
        return self.off_reason is None

    @property
    def all_targets(self) -> tuple[TargetConfig, ...]:
        """Return the targets; that of the entry itself where it names none."""
        return self.targets or (TargetConfig(self.base_url, self.api_key, 1, self.base_query, self.headers),)

    def url_of(self, dialect: str, target: TargetConfig | None = None) -> tuple[str, str] | None:
        """Return the base URL at which it serves a dialect, and the query of that URL; None where it does not. A target
        with a base URL of its own serves the dialects of the provider's kind there, and no others."""
        path = _PATHS_OF_KIND[self.kind].get(dialect)
        if target is not None and (target.base_url, target.base_query) != (self.base_url, self.base_query):
            return None if path is None else (target.base_url + path, target.base_query)
        url = self.dialects.get(dialect)
        if url is not None:
            base, _, query = url.partition("?")
            return base.rstrip("/"), query
        if path is None or not (self.base_url or self.kind == "local"):
            return None
        return (self.base_url or f"local://{self.name}") + path, self.base_query

    @property
    def served(self) -> frozenset[str]:
        """Return the names of the dialects that it serves."""
        return frozenset({*self.dialects, *(name for name in _PATHS_OF_KIND[self.kind] if self.url_of(name))})


def read_providers(at: Value) -> dict[str, ProviderConfig]:
    """Return the providers by name; a wrong one is a problem and left out."""
    providers = {}
    for name, value in at.entries().items():
        if not _PROVIDER_NAME.fullmatch(name):
            value.problem("a provider's name is letters, digits, '.', '_' and '-'")
        provider = _read_provider(name, value)
        if provider is not None:
            providers[name] = provider
    return providers


def _read_provider(name: str, value: Value) -> ProviderConfig | None:
    section = value.section(_PROVIDER_KEYS, ("kind",))
    vendor = section.maybe("kind", lambda value: value.choice((*KINDS, *COMPATIBLE)))
    kind = "openai" if vendor in COMPATIBLE else vendor
    usual = COMPATIBLE.get(vendor or "", OPENAI)
    if kind is not None:
        if kind in DECLARED and DECLARED[kind].key_required and "targets" not in section.values:
            section.require(("api_key",))
        for key in section:
            if key in _PROVIDER_KEYS and key not in _KEYS_OF_KIND[kind]:
                section.values[key].problem(f"a provider of kind {kind} has no such key")
    api_key, off_reason = read_key(section)
    base_url, _, base_query = section.read("base_url", read_base_url, usual.base_url).partition("?")
    base_url = base_url.rstrip("/")
    headers = section.maybe("headers", read_headers) or {}
    own = TargetConfig(base_url, api_key, 1, base_query, headers)
    targets = section.maybe("targets", lambda value: read_targets(value, own, off_reason)) or ()
    if "targets" in section.values:
        off_reason = None if targets else "none of its targets has a key that is set"
    if section.read("enabled", Value.truth, True) is False:
        off_reason = "enabled is false"
    dialects = section.maybe("dialects", _dialects) or {}
    if kind is not None and kind != "local" and not usual.base_url and "dialects" not in section.values:
        section.require(("base_url",))
    passed = section.maybe("pass_headers", _passed) or ()
    delay_ms = section.read("delay_ms", lambda value: value.whole(0, MAX_DELAY_MS), 0)
    chunk_delay_ms = section.read("chunk_delay_ms", lambda value: value.whole(0, MAX_DELAY_MS), 0)
    drain_s = section.maybe("disconnect_drain_s", lambda value: value.number(0, MAX_DRAIN_S))
    max_field = section.maybe("max_output_field", lambda value: value.choice(MAX_OUTPUT_FIELDS))
    stream_usage = section.read("stream_usage", Value.truth, usual.stream_usage)
    zero_usage = section.read("zero_usage", lambda value: value.choice(ZERO_USAGES), "estimate")
    if vendor in COMPATIBLE:
        max_field = max_field or usual.max_output_field
    cooldown = section.maybe("cooldown", read_cooldown) or Cooldown()
    billing = section.maybe("billing", lambda value: read_billing(value, vendor or ""))
    if not section.ok or kind is None:
        return None
    return ProviderConfig(
        name=name,
        kind=cast("ProviderKind", kind),
        base_url=base_url,
        api_key=api_key,
        headers=headers,
        off_reason=off_reason,
        delay_ms=delay_ms,
        chunk_delay_ms=chunk_delay_ms,
        disconnect_drain_s=drain_s,
        max_output_field=cast("MaxOutputField", max_field or default_max_field(dialects.get("openai", base_url))),
        pass_headers=passed,
        base_query=base_query,
        dialects={**_usual_dialects(vendor or "", name, base_url, base_query), **dialects},
        targets=targets,
        cooldown=cooldown,
        stream_usage=stream_usage is not False,
        zero_usage=cast("ZeroUsage", zero_usage),
        billing=billing,
    )


def _usual_dialects(kind: str, name: str, base_url: str, base_query: str) -> dict[str, str]:
    """Return the base URLs of further dialects that a provider of a kind serves, by the dialect's name."""
    if kind == "local":
        return {"rerank": f"local://{name}/v1", "responses_websocket": f"local://{name}/v1"}
    return usual_dialects(kind, base_url, base_query)


def _dialects(value: Value) -> dict[str, str]:
    """Return base URLs by the name of a dialect. Whether this version has that dialect is checked where they are
    known."""
    urls = {}
    for name, entry in value.entries().items():
        if not _DIALECT_NAME.fullmatch(name):
            entry.problem("a dialect's name is lower-case letters, digits and '_'")
        url = read_base_url(entry)
        if url is not None:
            urls[name] = url
    return urls


def _passed(value: Value) -> tuple[str, ...]:
    names = value.names("a header's name")
    if len(names) > MAX_PASSED:
        value.problem(f"at most {MAX_PASSED} headers")
    for name in names:
        if not HEADER_NAME.fullmatch(name) or never_sent(name):
            value.problem(f"{name} is not a header that can pass")
    return names
