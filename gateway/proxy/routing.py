"""Routing: from the model that a client names to the provider that answers. Pure but for the clock passed in.

This file owns what a model name resolves to: an entry of `config/metergate.yaml` by its name; for `provider/model` the
entry that leads there, else the provider's model as it is. Keys, plans and quotas match the resolved name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from billing.money import ceil_div
from billing.prices import (
    COST_SCALE,
    FACTOR_SCALE,
    INPUT_CLASSES,
    MILLION,
    OUTPUT_CLASSES,
    PriceRow,
    PriceTable,
    round_up,
)
from billing.quotas import DAY_S
from gateway.config.models import ModelConfig, ProviderConfig
from gateway.tokens import is_openai_model, vocabulary_for

MAX_NAME_BYTES: Final = 200
MAX_FOUND: Final = 10_000
ONLINE: Final = ":online"
"""OpenRouter's suffix of a model's name that puts search results before the prompt."""
ONLINE_SEARCHES: Final = 5
"""Results that it brings (https://openrouter.ai/docs/features/web-search)."""
_SEARCHES_ITSELF: Final = re.compile(r"\bgpt-.*-search-(?:preview|api)\b")
"""OpenAI's models that search before each answer, whether or not they are asked to, and do not report it
(https://platform.openai.com/docs/guides/tools-web-search)."""


@dataclass(frozen=True, slots=True)
class Rates:
    """A price row as admission needs it: dearest rates in nano-USD per million tokens, markup included later."""

    row: PriceRow
    input_rate: int
    output_rate: int
    request_nano: int
    output_unpriced: bool = False
    """Whether output would be free because the row forgot it."""
    search_nano: int = 0
    prices_audio: bool = False
    """Whether the row has a price of its own for spoken output."""
    _units: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    """Bounds of one output token, by markup: there are as many as plans."""

    @classmethod
    def of(cls, row: PriceRow) -> "Rates":
        factor = max([FACTOR_SCALE, *(row.multipliers or {}).values()])
        request_nano, search_nano = (
            ceil_div(row.per_unit.get(unit, 0) * factor, FACTOR_SCALE) for unit in ("request", "search")
        )
        return cls(
            row,
            row.dearest_nano(INPUT_CLASSES),
            row.dearest_nano(OUTPUT_CLASSES),
            request_nano,
            output_unpriced="input" in row.per_million and "output" not in row.per_million,
            search_nano=search_nano,
            prices_audio="audio_output" in row.per_million,
        )

    def input_nano(self, tokens: int, markup_scaled: int, searches: int = 0) -> int:
        """An upper bound of what so much input costs, the price of the request itself and of so many searches included,
        in nano-USD."""
        millionths = tokens * self.input_rate + (self.request_nano + searches * self.search_nano) * MILLION
        if not markup_scaled:
            return ceil_div(millionths, MILLION)
        return round_up(millionths * (COST_SCALE // MILLION), markup_scaled)

    def unit_nano(self, markup_scaled: int) -> int:
        """An upper bound of one output token's cost, in whole nano-USD."""
        unit = self._units.get(markup_scaled)
        if unit is None:
            unit = self._units[markup_scaled] = round_up(self.output_rate * (COST_SCALE // MILLION), markup_scaled)
        return unit


@dataclass(frozen=True, slots=True)
class Route:
    """One way to serve a request. `entry` is the resolved name; `model` the provider's own. `rates` is None where no
    price is in force; a request keeps those that its hold was made with."""

    entry: str
    provider: ProviderConfig
    model: str
    markup_scaled: int
    vocabulary: str
    own_max_output: int | None
    rates: Rates | None = None
    exact_vocabulary: bool = False
    """Whether `vocabulary` is the model's own, so that its tokens can be counted exactly."""
    disconnect_drain_s: float | None = None
    """Seconds that the upstream is read on after its client left: the entry's, else the provider's; None where neither
    says, so that `defaults` and the price row's `hidden_reasoning` decide."""
    online_searches: int = 0
    """Searches that the model's name asks for by itself (`:online`)."""
    searches_itself: bool = False
    """Whether the model searches once before it answers, also where the request does not ask for it."""
    others: Mapping[str, Rates] = field(default_factory=dict)
    """Prices of other models of this provider that may answer, by their names there, where a request names some."""

    @property
    def max_output_tokens(self) -> int | None:
        """The most output tokens that one answer can have, by the route or its price row."""
        if self.own_max_output is not None or self.rates is None:
            return self.own_max_output
        return self.rates.row.max_output_tokens or self.rates.row.context_window

    @property
    def context_window(self) -> int | None:
        """The largest context window of the models that may answer; None where one of them has none in its row."""
        if self.rates is None:
            return None
        window = self.rates.row.context_window
        for other in self.others.values():
            further = other.row.context_window
            window = None if window is None or further is None else max(window, further)
        return window

    def rates_of(self, served: str | None) -> Rates | None:
        """The prices of the model that an answer names: its own, or those of the longest name that it begins with
        (providers add a date). Where it names none of them: the dearest."""
        if self.rates is None:
            return None
        named = {self.model: self.rates, **self.others}
        known = [name for name in named if served is not None and served.startswith(name)]
        if known:
            return named[max(known, key=len)]
        return max(named.values(), key=lambda rates: (rates.output_rate, rates.input_rate))


class Router:
    """Finds routes; each is made once a day, because rows come into force at 00:00 UTC."""

    def __init__(
        self, providers: Mapping[str, ProviderConfig], models: Mapping[str, ModelConfig], prices: PriceTable
    ) -> None:
        self._providers = providers
        self._models = models
        self._prices = prices
        self.may_be_free = any(not row.dearest_nano(INPUT_CLASSES) for row in prices.rows)
        """Whether there may be a model that costs nothing."""
        self._by_target = {
            (model.provider, model.model): name
            for name, model in sorted(models.items(), key=lambda item: (item[0] == item[1].model, item[0]))
        }
        self._found: dict[str, tuple[Route | None, float]] = {}
        """By name: the route, and the Unix time up to which its price holds."""

    def find(self, name: str, now_s: float) -> Route | None:
        """The route of a model name, priced at a Unix time; None when there is none or its provider is off."""
        route, until_s = self._found.get(name, (None, 0.0))
        if now_s < until_s:
            return route
        if len(self._found) >= MAX_FOUND:
            self._found.clear()
        route = self._make(name)
        if route is not None:
            row = self._prices.find(route.provider.name, route.model, now_s)
            route = replace(route, rates=Rates.of(row) if row is not None else None)
        self._found[name] = route, now_s - now_s % DAY_S + DAY_S
        return route

    def with_others(self, route: Route, models: Iterable[str], now_s: float) -> tuple[Route, list[str], list[str]]:
        """A route on which other models of its provider may answer as well; what each of them is called here, as
        `find` resolves names; and those that have no price at a Unix time."""
        provider = route.provider.name
        rows = {model: self._prices.find(provider, model, now_s) for model in models}
        entries = [self._by_target.get((provider, model), f"{provider}/{model}") for model in rows]
        others = {model: Rates.of(row) for model, row in rows.items() if row is not None}
        searches = max([route.online_searches, *map(_searches_of, rows)])
        unpriced = [model for model, row in rows.items() if row is None]
        return replace(route, others=others, online_searches=searches), entries, unpriced

    def entries(self, now_s: float) -> Iterable[Route]:
        """The configured entries whose provider is on."""
        for name in self._models:
            route = self.find(name, now_s)
            if route is not None:
                yield route

    def _make(self, name: str) -> Route | None:
        if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:  # Postgres has no place for NUL
            return None
        config = self._models.get(name)
        if config is None:
            provider_name, slash, model = name.partition("/")
            if not slash or not model or provider_name not in self._providers:
                return None
            entry = self._by_target.get((provider_name, model))
            config = self._models[entry] if entry else ModelConfig(name, provider_name, model)
        provider = self._providers[config.provider]
        if not provider.enabled:
            return None
        exact = config.vocabulary is not None or provider.kind == "local" or is_openai_model(config.model)
        return Route(
            config.name,
            provider,
            config.model,
            config.markup_scaled,
            config.vocabulary or vocabulary_for(config.model),
            config.max_output_tokens,
            exact_vocabulary=exact,
            online_searches=ONLINE_SEARCHES if ONLINE in config.model.lower() else 0,
            searches_itself=_SEARCHES_ITSELF.search(config.model) is not None,
            disconnect_drain_s=(
                provider.disconnect_drain_s if config.disconnect_drain_s is None else config.disconnect_drain_s
            ),
        )


def _searches_of(model: str) -> int:
    """What another model that may answer searches by its name alone."""
    return ONLINE_SEARCHES if ONLINE in model.lower() else int(_SEARCHES_ITSELF.search(model) is not None)
