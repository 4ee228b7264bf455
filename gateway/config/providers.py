"""Providers and models of metergate.yaml, and what a provider's kind fills in. This file owns what they may say.

A provider whose key variable is unset is off, with the reason; its models stay listed, so that an operator sees what a
key would bring. What an entry says itself goes before what is usual for its kind.

A provider's targets are base URLs and keys with weights; `billing` says how its bill is read. A model's fallbacks name
entries, never providers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple, cast, get_args
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

from billing.money import parse_usd
from billing.pricing import parse_factor
from billing.provider_bills.lines import BASE_URLS, SOURCES, SourceName, Tolerance
from billing.quotas import MAX_NAME, MAX_TOOL_CALLS
from gateway.config.environment import is_url
from gateway.config.secret import Secret
from gateway.config.source import Unset, Value, decimal, names, nearest, read_by, read_section, text
from gateway.dialects.declared import DECLARED, never_sent
from gateway.dialects.openai.vendors import COMPATIBLE, OPENAI, MaxOutputField, default_max_field, usual_dialects
from gateway.upstream.health import MAX_WEIGHT, Cooldown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billing.pricing import PriceTable

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


def _read_kind(value: Value) -> str | None:
    return value.choice((*KINDS, *COMPATIBLE))


DelayMs = Annotated[int, Meta(ge=0, le=600_000)]


class _Entry(Struct, frozen=True):
    """A provider as the file has it. `kind` is one of `KINDS` or of `COMPATIBLE`."""

    kind: Annotated[str, read_by(_read_kind)]
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


Vocabulary = Literal["o200k_base", "cl100k_base"]
VOCABULARIES: Final[tuple[str, ...]] = get_args(Vocabulary)


class ModelConfig(Struct, frozen=True, rename={"markup_scaled": "markup_percent"}):
    """A route: the name that clients ask for, the provider that answers, and the model's name there (`model`).

    `markup_scaled` is in percent times `billing.pricing.FACTOR_SCALE`; `max_output_tokens` replaces the price row's;
    `disconnect_drain_s`, in seconds, its provider's and that of `defaults`; `default_tool_calls` that of `defaults`.
    `answered_by` are the models there of which one answers in its place, so that its own price row is a router's fee.
    """

    name: str
    provider: str
    model: Annotated[str, text("the model's name at the provider")] = ""
    fallbacks: Annotated[tuple[Annotated[str, text("an entry's name")], ...], names(16, "fallbacks")] = ()
    markup_scaled: Annotated[int, decimal(parse_factor, "20")] = 0
    vocabulary: Vocabulary | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    disconnect_drain_s: Annotated[float, Meta(ge=0, le=MAX_DRAIN_S)] | None = None
    answered_by: Annotated[tuple[Annotated[str, text("a model's name at the provider")], ...], names(64, "models")] = ()
    default_tool_calls: Annotated[int, Meta(ge=1, le=MAX_TOOL_CALLS)] | None = None


_NOT_OF_MANY: Final = {
    "model": "a name that ends with * stands for names at the provider as they are",
    "answered_by": "a name that ends with * stands for models that answer by themselves",
}


def read_models(at: Value, providers: Collection[str]) -> dict[str, ModelConfig]:
    """Return the routes by name. `providers` are the names in the file, wrong ones included: one mistake, one
    problem."""
    entries = at.entries()
    models = {}
    for name, value in entries.items():
        odd = name == "*" or "*" in name[:-1] or any(c.isspace() or not c.isprintable() for c in name)
        if odd or not 0 < len(name) <= MAX_NAME:
            value.problem(f"a model's name has 1 to {MAX_NAME} characters, without blanks, and a * at its end alone")
        model = read_section(value, ModelConfig, name=name)
        if model is not None and _is_sound(value, model, providers, entries):
            models[name] = structs.replace(model, model=model.model or name)
    for name, model in models.items():
        if model.fallbacks:
            _refuse_useless_fallbacks(entries[name], model, models)
    return models


def _refuse_useless_fallbacks(value: Value, model: ModelConfig, models: Mapping[str, ModelConfig]) -> None:
    """Note a problem for each fallback that asks the same provider for the same model as who was asked before it."""
    asked = {(model.provider, model.model)}
    for fallback in (models[name] for name in model.fallbacks if name in models):
        target = fallback.provider, fallback.model
        if target in asked:
            problem = f"{fallback.name} asks {'/'.join(target)}, which was asked before it; `retries` asks one again"
            value.entries()["fallbacks"].problem(problem)
        asked.add(target)


def _is_sound(value: Value, model: ModelConfig, providers: Collection[str], known: Collection[str]) -> bool:
    """Return whether an entry names what there is, and no more than it may; else problems are noted."""
    at, before = value.entries(), len(value.file.problems)
    if model.provider not in providers:
        at["provider"].expected("a provider of this file", nearest(model.provider, providers))
    for fallback in model.fallbacks:
        if fallback not in known:
            at["fallbacks"].problem(f"{fallback} is no entry of models{nearest(fallback, known)}")
        elif fallback.endswith("*"):
            at["fallbacks"].problem(f"{fallback} stands for many models: a fallback names one")
        elif fallback == model.name:
            at["fallbacks"].problem("an entry is no fallback of its own")
    if model.name.endswith("*"):
        for key, why in _NOT_OF_MANY.items():
            if getattr(model, key):
                at[key].problem(why)
    return len(value.file.problems) == before


def unpriced_models(models: Mapping[str, ModelConfig], prices: PriceTable, at_s: float) -> tuple[str, ...]:
    """Return the entries without a price row in force at a Unix time: each of their requests is refused. One that
    stands for many names stands for those alone that have one."""
    return tuple(
        name
        for name, model in models.items()
        if not name.endswith("*")
        and any(prices.find(model.provider, each, at_s) is None for each in (model.model, *model.answered_by))
    )


def unknown_models(
    models: Mapping[str, ModelConfig],
    providers: Mapping[str, ProviderConfig],
    prices: PriceTable,
    names: Iterable[str],
    at_s: float,
) -> list[str]:
    """Return which of some names, or prefixes with a `*` at their end, lead to no entry at a Unix time.
    `provider/model` leads to any of a provider that there is, an entry that stands for many names to those that have a
    price."""
    return [name for name in names if not _is_known(models, providers, prices, name, at_s)]


def _is_known(
    models: Mapping[str, ModelConfig],
    providers: Mapping[str, ProviderConfig],
    prices: PriceTable,
    name: str,
    at_s: float,
) -> bool:
    provider, slash, model = name.partition("/")
    if name in models or (slash and provider in providers and model):
        return True
    patterns = [(each[:-1], models[each].provider) for each in models if each.endswith("*")]
    if not name.endswith("*"):
        return any(name.startswith(begins) and prices.find(owner, name, at_s) is not None for begins, owner in patterns)
    prefix = name[:-1]
    if any(each.startswith(prefix) for each in (*models, *(f"{each}/" for each in providers))):
        return True
    return any(prefix.startswith(begins) for begins, _ in patterns)
