"""Providers of metergate.yaml, and what a provider's kind fills in. This file owns what a provider may say.

A provider whose key variable is unset is off, with the reason; its models stay listed, so that an operator sees what a
key would bring. What an entry says itself goes before what is usual for its kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, cast, get_args

from msgspec import Meta, Struct

from gateway.config.secret import Secret
from gateway.config.sections import names, read_by, read_section
from gateway.config.source import Value
from gateway.config.targets import (
    HEADER_NAME,
    MAX_TARGETS,
    NO_KEY,
    ApiKey,
    BaseUrl,
    BillingConfig,
    Headers,
    Target,
    TargetConfig,
    read_base_url,
    read_billing,
    targets_beside,
)
from gateway.dialects.declared import DECLARED, never_sent
from gateway.dialects.openai.vendors import COMPATIBLE, OPENAI, MaxOutputField, default_max_field, usual_dialects
from gateway.upstream.health import Cooldown

ProviderKind = Literal["openai", "anthropic", "gemini", "local"]
ZeroUsage = Literal["trust", "estimate"]
KINDS: Final[tuple[str, ...]] = get_args(ProviderKind)
# As `disconnect_drain_s` of `defaults` is bounded.
MAX_DRAIN_S: Final = 3600
MAX_PASSED: Final = 64
_PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_DIALECT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
# The dialects that a kind serves, and what stands between its `base_url` and a dialect's own paths.
_PATHS_OF_KIND: Final[Mapping[str, Mapping[str, str]]] = {
    **{name: declared.provider_paths for name, declared in DECLARED.items()},
    "local": {"openai": "/v1", "anthropic": "", "gemini": ""},
}


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


def _usual_dialects(kind: str, name: str, base_url: str, base_query: str) -> dict[str, str]:
    """Return the base URLs of further dialects that a provider of a kind serves, by the dialect's name."""
    if kind == "local":
        return {"rerank": f"local://{name}/v1", "responses_websocket": f"local://{name}/v1"}
    return usual_dialects(kind, base_url, base_query)


def _read_dialects(value: Value) -> dict[str, str]:
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


def _read_passed(value: Value) -> tuple[str, ...]:
    names = value.names("a header's name")
    if len(names) > MAX_PASSED:
        value.problem(f"at most {MAX_PASSED} headers")
    for name in names:
        if not HEADER_NAME.fullmatch(name) or never_sent(name):
            value.problem(f"{name} is not a header that can pass")
    return names


DelayMs = Annotated[int, Meta(ge=0, le=600_000)]


class _Entry(Struct, frozen=True):
    """A provider as the file has it. `kind` is one of `KINDS` or of `COMPATIBLE`."""

    kind: Annotated[str, read_by(lambda value: value.choice((*KINDS, *COMPATIBLE)))]
    base_url: BaseUrl | None = None
    api_key: ApiKey = NO_KEY
    headers: Headers = {}
    pass_headers: Annotated[tuple[str, ...], read_by(_read_passed)] = ()
    enabled: bool = True
    disconnect_drain_s: Annotated[float, Meta(ge=0, le=MAX_DRAIN_S)] | None = None
    max_output_field: MaxOutputField | None = None
    stream_usage: bool | None = None
    zero_usage: ZeroUsage = "estimate"
    dialects: Annotated[dict[str, str], read_by(_read_dialects)] | None = None
    targets: Annotated[tuple[Target, ...], names(MAX_TARGETS, "targets")] | None = None
    cooldown: Cooldown = Cooldown()
    billing: Annotated[Value, read_by(lambda value: value)] | None = None
    delay_ms: DelayMs = 0
    chunk_delay_ms: DelayMs = 0


_OF_LOCAL: Final = ("kind", "delay_ms", "chunk_delay_ms", "enabled", "disconnect_drain_s")


def _check_keys(value: Value, entry: _Entry, kind: str) -> None:
    """Note keys that providers of this kind don't have, and those that they need and lack."""
    at = value.entries()
    for name, each in at.items():
        is_local = name in _OF_LOCAL
        if (not is_local) if kind == "local" else name in ("delay_ms", "chunk_delay_ms"):
            each.problem(f"a provider of kind {kind} has no such key")
    if kind in ("anthropic", "gemini") and entry.targets is None and ("api_key" not in at or at["api_key"].is_null):
        value.missing("api_key")
    has_url = entry.base_url or COMPATIBLE.get(entry.kind, OPENAI).base_url
    if kind != "local" and not has_url and entry.dialects is None:
        value.missing("base_url")


def _read_provider(name: str, value: Value) -> ProviderConfig | None:
    entry = read_section(value, _Entry)
    if entry is None:
        return None
    usual = COMPATIBLE.get(entry.kind)
    kind = cast("ProviderKind", entry.kind if usual is None else "openai")
    _check_keys(value, entry, kind)
    billing = None if entry.billing is None else read_billing(entry.billing, entry.kind)
    usual_url = OPENAI.base_url if usual is None else usual.base_url
    base_url, _, base_query = (usual_url if entry.base_url is None else entry.base_url).partition("?")
    base_url, dialects = base_url.rstrip("/"), entry.dialects or {}
    off_reason = entry.api_key.off_reason
    targets: tuple[TargetConfig, ...] = ()
    if entry.targets is not None:
        own = TargetConfig(base_url, entry.api_key.secret, 1, base_query, entry.headers)
        targets = targets_beside(own, off_reason, entry.targets)
        off_reason = None if targets else "none of its targets has a key that is set"
    if not entry.enabled:
        off_reason = "enabled is false"
    usual_field = default_max_field(dialects.get("openai", base_url)) if usual is None else usual.max_output_field
    usual_usage = (usual or OPENAI).stream_usage
    return ProviderConfig(
        name=name,
        kind=kind,
        base_url=base_url,
        api_key=entry.api_key.secret,
        headers=entry.headers,
        off_reason=off_reason,
        delay_ms=entry.delay_ms,
        chunk_delay_ms=entry.chunk_delay_ms,
        disconnect_drain_s=entry.disconnect_drain_s,
        max_output_field=cast("MaxOutputField", entry.max_output_field or usual_field),
        pass_headers=entry.pass_headers,
        base_query=base_query,
        dialects={**_usual_dialects(entry.kind, name, base_url, base_query), **dialects},
        targets=targets,
        cooldown=entry.cooldown,
        stream_usage=usual_usage if entry.stream_usage is None else entry.stream_usage,
        zero_usage=entry.zero_usage,
        billing=billing,
    )
