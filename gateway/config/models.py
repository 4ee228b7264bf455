"""Models of metergate.yaml. This file owns what a route may say. A model's fallbacks name entries, never providers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal, get_args

from msgspec import Meta, Struct, structs

from billing.pricing import parse_factor
from billing.quotas import MAX_NAME, MAX_TOOL_CALLS
from gateway.config.providers import MAX_DRAIN_S
from gateway.config.source import decimal, names, nearest, read_section, text

if TYPE_CHECKING:
    from billing.pricing import PriceTable
    from gateway.config.providers import ProviderConfig
    from gateway.config.source import Value

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
