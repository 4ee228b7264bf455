"""Models of metergate.yaml. This file owns what a route may say. A model's fallbacks name entries, never providers."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from billing.plans import MAX_TOOL_CALLS
from billing.pricing.scales import parse_factor
from billing.pricing.table import PriceTable
from billing.quotas import MAX_NAME
from gateway.config.problems import nearest
from gateway.config.providers import MAX_DRAIN_S, ProviderConfig
from gateway.config.source import Value

Vocabulary = Literal["o200k_base", "cl100k_base"]
VOCABULARIES: Final[tuple[str, ...]] = get_args(Vocabulary)
MAX_OUTPUT_TOKENS: Final = 10_000_000
MAX_FALLBACKS: Final = 16
MAX_ANSWERED_BY: Final = 64
_MODEL_KEYS: Final = (
    *("provider", "model", "answered_by", "fallbacks", "markup_percent", "vocabulary", "max_output_tokens"),
    *("disconnect_drain_s", "default_tool_calls"),
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A route: the name that clients ask for, the provider that answers, and the model's name there (`model`).

    `markup_scaled` is in percent times `pricing.scales.FACTOR_SCALE`; `max_output_tokens` replaces the price row's;
    `disconnect_drain_s`, in seconds, its provider's and that of `defaults`; `default_tool_calls` that of `defaults`.
    `answered_by` are the models there of which
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
    default_tool_calls: int | None = None


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
            problem = f"{fallback.name} asks {'/'.join(target)}, which was asked before it; `retries` asks one again"
            value.entries()["fallbacks"].problem(problem)
        asked.add(target)


def _read_model(name: str, value: Value, providers: Collection[str], known: Collection[str]) -> ModelConfig | None:
    section = value.section(_MODEL_KEYS, ("provider",))
    provider = section.read("provider", Value.text, "")
    if provider and provider not in providers:
        section.values["provider"].expected("a provider of this file", nearest(provider, providers))
    fallbacks = section.maybe("fallbacks", lambda value: value.names("an entry's name")) or ()
    if len(fallbacks) > MAX_FALLBACKS:
        section.values["fallbacks"].problem(f"at most {MAX_FALLBACKS} fallbacks")
    for fallback in fallbacks:
        if fallback not in known:
            section.values["fallbacks"].problem(f"{fallback} is no entry of models{nearest(fallback, known)}")
        elif fallback.endswith("*"):
            section.values["fallbacks"].problem(f"{fallback} stands for many models: a fallback names one")
        elif fallback == name:
            section.values["fallbacks"].problem("an entry is no fallback of its own")
    model = section.read("model", lambda value: value.text("the model's name at the provider"), name)
    if name.endswith("*") and "model" in section.values:
        section.values["model"].problem("a name that ends with * stands for names at the provider as they are")
    answered_by = section.maybe("answered_by", lambda value: value.names("a model's name at the provider")) or ()
    if len(answered_by) > MAX_ANSWERED_BY:
        section.values["answered_by"].problem(f"at most {MAX_ANSWERED_BY} models")
    if name.endswith("*") and answered_by:
        section.values["answered_by"].problem("a name that ends with * stands for models that answer by themselves")
    markup = section.read("markup_percent", lambda value: value.decimal(parse_factor, "20"), 0)
    vocabulary = section.maybe("vocabulary", lambda value: value.choice(VOCABULARIES))
    most = section.maybe("max_output_tokens", lambda value: value.whole(1, MAX_OUTPUT_TOKENS))
    tool_calls = section.maybe("default_tool_calls", lambda value: value.whole(1, MAX_TOOL_CALLS))
    drain_s = section.maybe("disconnect_drain_s", lambda value: value.number(0, MAX_DRAIN_S))
    if not section.ok:
        return None
    vocabulary = cast("Vocabulary | None", vocabulary)
    return ModelConfig(name, provider, model, fallbacks, markup, vocabulary, most, drain_s, answered_by, tool_calls)


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
