"""Providers and models of metergate.yaml. This file owns what a provider and a route may say.

A provider whose key variable is unset is off, with the reason; its models stay listed, so that an operator sees what a
key would bring. A model's fallbacks name entries, never providers.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

from billing.prices import PriceTable, parse_factor
from billing.quotas import MAX_NAME
from gateway.config.problems import nearest
from gateway.config.reader import is_url
from gateway.config.references import Unset
from gateway.config.secret import Secret
from gateway.config.source import Section, Value
from gateway.upstream.headers import never_sent

ProviderKind = Literal["openai", "anthropic", "gemini", "local"]
Vocabulary = Literal["o200k_base", "cl100k_base"]
MaxOutputField = Literal["max_completion_tokens", "max_tokens", "n_predict"]

KINDS: Final[tuple[str, ...]] = get_args(ProviderKind)
VOCABULARIES: Final[tuple[str, ...]] = get_args(Vocabulary)
MAX_OUTPUT_FIELDS: Final[tuple[str, ...]] = get_args(MaxOutputField)
MAX_OUTPUT_TOKENS: Final = 10_000_000
MAX_DELAY_MS: Final = 600_000
MAX_DRAIN_S: Final = 3600
"""As `disconnect_drain_s` of `defaults` is bounded."""
MAX_FALLBACKS: Final = 16
MAX_PASSED: Final = 64
_PROVIDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
_HEADER_TEXT: Final = re.compile(r"[!-~]([ -~]{0,4094}[!-~])?", re.ASCII)
_OWN_HEADERS: Final = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")
_NEW_FIELD_HOSTS: Final = re.compile(r"https?://(api\.openai\.com|[^/]+\.(openai|cognitiveservices)\.azure\.com)[:/]")
"""OpenAI's and Azure's reasoning models refuse `max_tokens`; all others know it, and many know nothing else."""
_REMOTE_KEYS: Final = (
    *("kind", "base_url", "api_key", "headers", "pass_headers", "enabled", "disconnect_drain_s"),
    "max_output_field",
)
_LOCAL_KEYS: Final = ("kind", "delay_ms", "chunk_delay_ms", "enabled", "disconnect_drain_s")
_PROVIDER_KEYS: Final = (*_REMOTE_KEYS, "delay_ms", "chunk_delay_ms")
_KEYS_OF_KIND: Final = {kind: _LOCAL_KEYS if kind == "local" else _REMOTE_KEYS for kind in KINDS}
SERVED_KINDS: Final = ("openai", "local")
"""Kinds that this version has a dialect for; a provider of another kind may stand in the file, and is off."""
_REQUIRED_BY_KIND: Final = {
    "openai": ("base_url",),  # a server of one's own may want no key
    "anthropic": ("base_url", "api_key"),
    "gemini": ("base_url", "api_key"),
    "local": (),
}
_MODEL_KEYS: Final = (
    *("provider", "model", "fallbacks", "markup_percent", "vocabulary", "max_output_tokens", "disconnect_drain_s"),
)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A place that answers. `base_url` has no slash at its end and is empty for `local`; `base_query` is what stood in
    it behind `?`, and may hold a secret; `off_reason` says why it is off, for the operator. `headers` are sent with
    every request and may hold secrets; `pass_headers` are names of clients' headers that it gets beside those that
    every provider gets. `disconnect_drain_s` replaces that of `defaults`, in seconds; `max_output_field` is the field
    in which it takes the maximum of a chat's output."""

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

    @property
    def enabled(self) -> bool:
        return self.off_reason is None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A route: the name that clients ask for, the provider that answers, and the model's name there (`model`).

    `markup_scaled` is in percent times `prices.FACTOR_SCALE`; `max_output_tokens` replaces the price row's;
    `disconnect_drain_s`, in seconds, its provider's and that of `defaults`.
    """

    name: str
    provider: str
    model: str
    fallbacks: tuple[str, ...] = ()
    markup_scaled: int = 0
    vocabulary: Vocabulary | None = None
    max_output_tokens: int | None = None
    disconnect_drain_s: float | None = None


def read_providers(at: Value) -> dict[str, ProviderConfig]:
    """The providers by name; a wrong one is a problem and left out."""
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
    kind = section.maybe("kind", lambda said: said.choice(KINDS))
    if kind is not None:
        section.require(_REQUIRED_BY_KIND[kind])
        for key in section:
            if key in _PROVIDER_KEYS and key not in _KEYS_OF_KIND[kind]:
                section.values[key].problem(f"a provider of kind {kind} has no such key")
    api_key, off_reason = _read_key(section)
    if section.read("enabled", Value.truth, True) is False:
        off_reason = "enabled is false"
    if kind is not None and kind not in SERVED_KINDS:
        off_reason = f"this version does not serve the kind {kind}"
    base_url, _, base_query = section.read("base_url", _base_url, "").partition("?")
    base_url = base_url.rstrip("/")
    headers = section.maybe("headers", _headers) or {}
    passed = section.maybe("pass_headers", _passed) or ()
    delay_ms = section.read("delay_ms", lambda said: said.whole(0, MAX_DELAY_MS), 0)
    chunk_delay_ms = section.read("chunk_delay_ms", lambda said: said.whole(0, MAX_DELAY_MS), 0)
    drain_s = section.maybe("disconnect_drain_s", lambda said: said.number(0, MAX_DRAIN_S))
    max_field = section.maybe("max_output_field", lambda said: said.choice(MAX_OUTPUT_FIELDS))
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
        cast("MaxOutputField", max_field or default_max_output_field(base_url)),
        passed,
        base_query,
    )


def default_max_output_field(base_url: str) -> MaxOutputField:
    """Where a provider takes the maximum of a chat's output when its entry does not say."""
    return "max_completion_tokens" if _NEW_FIELD_HOSTS.match(base_url + "/") else "max_tokens"


def _read_key(section: Section) -> tuple[Secret | None, str | None]:
    """The key and, where the file names one that is unset, why the provider is off."""
    value = section.values.get("api_key")
    if value is None:
        return None, None
    if value.is_null:
        return None, "api_key is empty"
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
        return None, "api_key is empty"
    if not _HEADER_TEXT.fullmatch(text):
        value.problem("the key holds characters that no header can carry")
        return None, None
    return Secret(text), None


def _base_url(value: Value) -> str | None:
    text = value.text("a URL that begins with https:// or http://")
    if text is None:
        return None
    if not is_url(text) or any(mark in text for mark in "#@"):
        value.expected("a URL that begins with https:// or http://, without user or fragment", secret=True)
        return None
    return text


def _headers(value: Value) -> dict[str, str]:
    headers = {}
    for name, said in value.entries().items():
        text = said.text()
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
            said.problem("not a header that can be set here")
        elif text is not None and not _HEADER_TEXT.fullmatch(text):
            said.problem("the text holds characters that no header can carry")
        elif text is not None:
            headers[name] = text
    return headers


def _passed(value: Value) -> tuple[str, ...]:
    names = value.names("a header's name")
    if len(names) > MAX_PASSED:
        value.problem(f"at most {MAX_PASSED} headers")
    for name in names:
        if not _HEADER_NAME.fullmatch(name) or never_sent(name):
            value.problem(f"{name} is not a header that can pass")
    return names


def read_models(at: Value, providers: Collection[str]) -> dict[str, ModelConfig]:
    """The routes by name. `providers` are the names in the file, wrong ones included: one mistake, one problem."""
    entries = at.entries()
    models = {}
    for name, value in entries.items():
        if not 0 < len(name) <= MAX_NAME or "*" in name or any(c.isspace() or not c.isprintable() for c in name):
            value.problem(f"a model's name has 1 to {MAX_NAME} characters, without blanks and *")
        model = _read_model(name, value, providers, entries)
        if model is not None:
            models[name] = model
    return models


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
        elif fallback == name:
            section.values["fallbacks"].problem("an entry is no fallback of its own")
    if fallbacks:
        section.values["fallbacks"].no_effect()
    model = section.read("model", lambda said: said.text("the model's name at the provider"), name)
    markup = section.read("markup_percent", lambda said: said.decimal(parse_factor, "20"), 0)
    vocabulary = section.maybe("vocabulary", lambda said: said.choice(VOCABULARIES))
    most = section.maybe("max_output_tokens", lambda said: said.whole(1, MAX_OUTPUT_TOKENS))
    drain_s = section.maybe("disconnect_drain_s", lambda said: said.number(0, MAX_DRAIN_S))
    if not section.ok:
        return None
    return ModelConfig(name, provider, model, fallbacks, markup, cast("Vocabulary | None", vocabulary), most, drain_s)


def unpriced_models(models: Mapping[str, ModelConfig], prices: PriceTable, at_s: float) -> tuple[str, ...]:
    """The entries without a price row in force at a Unix time: each of their requests is refused."""
    return tuple(name for name, model in models.items() if prices.find(model.provider, model.model, at_s) is None)


def unknown_models(
    models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig], names: Iterable[str]
) -> list[str]:
    """Which of some names, or prefixes with a `*` at their end, lead to no entry. `provider/model` leads to any of a
    provider that there is."""
    return [name for name in names if not _is_known(models, providers, name)]


def _is_known(models: Mapping[str, ModelConfig], providers: Mapping[str, ProviderConfig], name: str) -> bool:
    provider, slash, model = name.partition("/")
    if name in models or (slash and provider in providers and model):
        return True
    if not name.endswith("*"):
        return False
    prefix = name[:-1]
    return any(each.startswith(prefix) for each in (*models, *(f"{each}/" for each in providers)))
