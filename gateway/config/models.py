"""Providers and models of metergate.yaml. This file owns what a provider and a route may say.

A provider whose key variable is unset is off, with the reason; its models stay listed, so that an operator sees what a
key would bring. A model's fallbacks name entries, never providers.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

from billing.price_table import PriceTable
from billing.quotas import MAX_NAME
from billing.rates import parse_factor
from gateway.config.kinds import COMPATIBLE, OPENAI, MaxOutputField, usual_dialects
from gateway.config.problems import nearest
from gateway.config.secret import Secret
from gateway.config.source import Value
from gateway.config.targets import (
    HEADER_NAME,
    TargetConfig,
    read_base_url,
    read_cooldown,
    read_headers,
    read_key,
    read_targets,
)
from gateway.dialects.openai.paths import default_max_field
from gateway.upstream.headers import never_sent
from gateway.upstream.health import Cooldown

ProviderKind = Literal["openai", "anthropic", "gemini", "local"]
Vocabulary = Literal["o200k_base", "cl100k_base"]
ZeroUsage = Literal["trust", "estimate"]

KINDS: Final[tuple[str, ...]] = get_args(ProviderKind)
VOCABULARIES: Final[tuple[str, ...]] = get_args(Vocabulary)
ZERO_USAGES: Final[tuple[str, ...]] = get_args(ZeroUsage)
MAX_OUTPUT_FIELDS: Final[tuple[str, ...]] = get_args(MaxOutputField)
MAX_OUTPUT_TOKENS: Final = 10_000_000
MAX_DELAY_MS: Final = 600_000
MAX_DRAIN_S: Final = 3600
"""As `disconnect_drain_s` of `defaults` is bounded."""
MAX_FALLBACKS: Final = 16
MAX_ANSWERED_BY: Final = 64
MAX_PASSED: Final = 64
_PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_DIALECT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_REMOTE_KEYS: Final = (
    *("kind", "base_url", "api_key", "headers", "pass_headers", "enabled", "disconnect_drain_s"),
    *("max_output_field", "stream_usage", "zero_usage", "dialects", "targets", "cooldown"),
)
_LOCAL_KEYS: Final = ("kind", "delay_ms", "chunk_delay_ms", "enabled", "disconnect_drain_s")
_PROVIDER_KEYS: Final = (*_REMOTE_KEYS, "delay_ms", "chunk_delay_ms")
_KEYS_OF_KIND: Final = {kind: _LOCAL_KEYS if kind == "local" else _REMOTE_KEYS for kind in KINDS}
SERVED_KINDS: Final = ("openai", "anthropic", "gemini", "local")
"""Kinds that this version has a dialect for; a provider of another kind may stand in the file, and is off."""
_REQUIRED_BY_KIND: Final = {
    "openai": (),  # a server of one's own may want no key
    "anthropic": ("api_key",),
    "gemini": ("api_key",),
    "local": (),
}
_PATHS_OF_KIND: Final[Mapping[str, Mapping[str, str]]] = {
    "openai": {"openai": ""},
    "anthropic": {"anthropic": "", "openai": "/v1"},
    "gemini": {"gemini": "", "openai": "/v1beta/openai"},
    "local": {"openai": "/v1", "anthropic": "", "gemini": ""},
}
"""The dialects that a kind serves, and what stands between its `base_url` and a dialect's own paths."""
_MODEL_KEYS: Final = (
    *("provider", "model", "answered_by", "fallbacks", "markup_percent", "vocabulary", "max_output_tokens"),
    "disconnect_drain_s",
)


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
    that counts nothing at all is believed, or estimated as one without usage."""

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


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A route: the name that clients ask for, the provider that answers, and the model's name there (`model`).

    `markup_scaled` is in percent times `prices.FACTOR_SCALE`; `max_output_tokens` replaces the price row's;
    `disconnect_drain_s`, in seconds, its provider's and that of `defaults`. `answered_by` are the models there of which
    one answers in its place, so that its own price row is a router's fee.
    """

    name: str
    provider: str
    model: str
    fallbacks: tuple[str, ...] = ()
    markup_scaled: int = 0
    vocabulary: Vocabulary | None = None
    max_output_tokens: int | None = None
    disconnect_drain_s: float | None = None
    answered_by: tuple[str, ...] = ()


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
    vendor = section.maybe("kind", lambda said: said.choice((*KINDS, *COMPATIBLE)))
    kind = "openai" if vendor in COMPATIBLE else vendor
    usual = COMPATIBLE.get(vendor or "", OPENAI)
    if kind is not None:
        section.require(() if "targets" in section.values else _REQUIRED_BY_KIND[kind])
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
    if kind is not None and kind not in SERVED_KINDS:
        off_reason = f"this version does not serve the kind {kind}"
    dialects = section.maybe("dialects", _dialects) or {}
    if kind is not None and kind != "local" and not usual.base_url and "dialects" not in section.values:
        section.require(("base_url",))
    passed = section.maybe("pass_headers", _passed) or ()
    delay_ms = section.read("delay_ms", lambda said: said.whole(0, MAX_DELAY_MS), 0)
    chunk_delay_ms = section.read("chunk_delay_ms", lambda said: said.whole(0, MAX_DELAY_MS), 0)
    drain_s = section.maybe("disconnect_drain_s", lambda said: said.number(0, MAX_DRAIN_S))
    max_field = section.maybe("max_output_field", lambda said: said.choice(MAX_OUTPUT_FIELDS))
    stream_usage = section.read("stream_usage", Value.truth, usual.stream_usage)
    zero_usage = section.read("zero_usage", lambda said: said.choice(ZERO_USAGES), "estimate")
    if vendor in COMPATIBLE:
        max_field = max_field or usual.max_output_field
    cooldown = section.maybe("cooldown", read_cooldown) or Cooldown()
    if not section.ok or kind is None:
        return None
    return ProviderConfig(
        name,
        cast("ProviderKind", kind),
        base_url,
        api_key,
        headers,
        off_reason,
        delay_ms,
        chunk_delay_ms,
        drain_s,
        cast("MaxOutputField", max_field or default_max_field(dialects.get("openai", base_url))),
        passed,
        base_query,
        {**usual_dialects(vendor or "", name, base_url, base_query), **dialects},
        targets,
        cooldown,
        stream_usage is not False,
        cast("ZeroUsage", zero_usage),
    )


def _dialects(value: Value) -> dict[str, str]:
    """Base URLs by the name of a dialect; that this version has it is looked at where dialects are known."""
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


def read_models(at: Value, providers: Collection[str]) -> dict[str, ModelConfig]:
    """Return the routes by name. `providers` are the names in the file, wrong ones included: one mistake, one
    problem."""
    entries = at.entries()
    models = {}
    for name, value in entries.items():
        odd = name == "*" or "*" in name[:-1] or any(c.isspace() or not c.isprintable() for c in name)
        if odd or not 0 < len(name) <= MAX_NAME:
            value.problem(f"a model's name has 1 to {MAX_NAME} characters, without blanks, and a * at its end alone")
        model = _read_model(name, value, providers, entries)
        if model is not None:
            models[name] = model
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
            said = f"{fallback.name} asks {'/'.join(target)}, which was asked before it; `retries` asks one again"
            value.entries()["fallbacks"].problem(said)
        asked.add(target)


def _read_model(name: str, value: Value, providers: Collection[str], known: Collection[str]) -> ModelConfig | None:
    section = value.section(_MODEL_KEYS, ("provider",))
    provider = section.read("provider", Value.text, "")
    if provider and provider not in providers:
        section.values["provider"].expected("a provider of this file", nearest(provider, providers))
    fallbacks = section.maybe("fallbacks", lambda said: said.names("an entry's name")) or ()
    if len(fallbacks) > MAX_FALLBACKS:
        section.values["fallbacks"].problem(f"at most {MAX_FALLBACKS} fallbacks")
    for fallback in fallbacks:
        if fallback not in known:
            section.values["fallbacks"].problem(f"{fallback} is no entry of models{nearest(fallback, known)}")
        elif fallback.endswith("*"):
            section.values["fallbacks"].problem(f"{fallback} stands for many models: a fallback names one")
        elif fallback == name:
            section.values["fallbacks"].problem("an entry is no fallback of its own")
    model = section.read("model", lambda said: said.text("the model's name at the provider"), name)
    if name.endswith("*") and "model" in section.values:
        section.values["model"].problem("a name that ends with * stands for names at the provider as they are")
    answered_by = section.maybe("answered_by", lambda said: said.names("a model's name at the provider")) or ()
    if len(answered_by) > MAX_ANSWERED_BY:
        section.values["answered_by"].problem(f"at most {MAX_ANSWERED_BY} models")
    if name.endswith("*") and answered_by:
        section.values["answered_by"].problem("a name that ends with * stands for models that answer by themselves")
    markup = section.read("markup_percent", lambda said: said.decimal(parse_factor, "20"), 0)
    vocabulary = section.maybe("vocabulary", lambda said: said.choice(VOCABULARIES))
    most = section.maybe("max_output_tokens", lambda said: said.whole(1, MAX_OUTPUT_TOKENS))
    drain_s = section.maybe("disconnect_drain_s", lambda said: said.number(0, MAX_DRAIN_S))
    if not section.ok:
        return None
    vocabulary = cast("Vocabulary | None", vocabulary)
    return ModelConfig(name, provider, model, fallbacks, markup, vocabulary, most, drain_s, answered_by)


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
