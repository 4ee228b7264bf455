"""Routing: from the model that a client names to the provider that answers. Pure but for the clock passed in.

This file owns what a model name resolves to: an entry of `config/metergate.yaml` by its name; for `provider/model` the
entry that leads there, else the provider's model as it is. Keys, plans and quotas match the resolved name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from billing.money import ceil_div
from billing.prices import (
    COST_SCALE,
    INPUT_CLASSES,
    MILLION,
    OUTPUT_CLASSES,
    PriceRow,
    PriceTable,
    round_up,
)
from billing.quotas import DAY_S
from billing.rates import MINUTES_OF_DAY
from gateway.config.models import ModelConfig, ProviderConfig
from gateway.proxy.outgoing import Target
from gateway.tokens import is_openai_model, vocabulary_for

if TYPE_CHECKING:
    from gateway.dialects.base import Match
    from gateway.proxy.target_health import HealthBoard
    from gateway.upstream.health import TargetHealth

MINUTE_S: Final = 60
MAX_NAME_BYTES: Final = 200
MAX_FOUND: Final = 10_000
ONLINE: Final = ":online"
"""OpenRouter's suffix of a model's name that puts search results before the prompt."""
ONLINE_SEARCHES: Final = 5
"""Results that it brings (https://openrouter.ai/docs/features/web-search)."""
_SEARCHES_ITSELF: Final = re.compile(r"\bgpt-.*-search-(?:preview|api)\b")
"""OpenAI's models that search before each answer, whether or not they are asked to, and do not report it
(https://platform.openai.com/docs/guides/tools-web-search)."""


_OF_THE_ROUTE: Final = frozenset({"model"})
"""What of a path is the same for all requests on a route."""


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
    minute: int = 0
    """A minute of the UTC day at which the variants apply that do while this is in force."""
    prices_audio: bool = False
    """Whether the row has a price of its own for spoken output."""
    _units: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    """Bounds of one output token, by markup: there are as many as plans."""

    @classmethod
    def of(cls, row: PriceRow, minute: int = 0, *, asked: bool = False) -> Rates:
        return cls(
            row,
            row.dearest_nano(INPUT_CLASSES, asked=asked),
            row.dearest_nano(OUTPUT_CLASSES, asked=asked),
            row.dearest_unit("request"),
            output_unpriced="input" in row.per_million and "output" not in row.per_million,
            search_nano=row.dearest_unit("search"),
            minute=minute,
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
class Candidate:
    """A provider and its model that may serve a request. `entry` is the resolved name, under which a request is
    admitted and recorded whichever candidate serves it; `model` the provider's own. `rates` is None where no price is
    in force; a request keeps those that its hold was made with."""

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
    fallback: str | None = None
    """Where it is a fallback of `entry`, the entry that describes it."""
    health: tuple[TargetHealth, ...] = field(default=(), repr=False, compare=False)
    """That of the provider's targets, in their order."""
    prices: PriceTable | None = field(default=None, repr=False, compare=False)
    """The table that `rates` are of, and the Unix time at which they are."""
    priced_at_s: float = field(default=0.0, compare=False)
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

    @property
    def costs_no_input(self) -> bool:
        """Whether input has a price, and that is zero in every class."""
        return self.rates is not None and not self.rates.input_rate and "input" in self.rates.row.per_million

    @property
    def costs_nothing(self) -> bool:
        """Whether there is a price, and that is zero in every class and unit that an answer may have."""
        rates = self.rates
        if rates is None or self.others:
            return False
        return not (rates.input_rate or rates.output_rate or rates.request_nano or rates.search_nano)

    def within_window(self, asked: int) -> int:
        """A client's own maximum of output tokens, up to the context window, beyond which no model writes."""
        window = self.context_window
        return asked if window is None else min(asked, window)

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

    def row_of(self, model: str) -> PriceRow | None:
        """The price row of another model of this provider, from the table that the request was admitted under."""
        return self.prices.find(self.provider.name, model, self.priced_at_s) if self.prices is not None else None


class Destination(msgspec.Struct, frozen=True):
    """A candidate and the targets, at least one, by which its provider takes requests to one endpoint. Its terms are
    `kept_as` this with a principal, beside what gateways keep there, whose ids are no such words."""

    kept_as: str
    candidate: Candidate
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Where a model's name leads: the candidates, in the order in which they are asked. A request is held for the
    dearest of them, and charged by the row of the one that served."""

    entry: str
    candidates: tuple[Candidate, ...]
    _destinations: dict[tuple[str, str], tuple[Destination, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )
    """By dialect and operation; each is made with its first request."""

    @property
    def first(self) -> Candidate:
        """The candidate that is listed: by its price and limits."""
        return self.candidates[0]

    @property
    def served(self) -> frozenset[str]:
        """The names of the dialects in which a request may reach any candidate."""
        return frozenset().union(*(candidate.provider.served for candidate in self.candidates))

    def destinations(self, match: Match) -> tuple[Destination, ...]:
        """The candidates whose providers serve the dialect of an endpoint."""
        key = (match.dialect.name, match.endpoint.operation)
        found = self._destinations.get(key)
        if found is None:
            made = [(each, Target.all_of(each.provider, match, each.model, each.health)) for each in self.candidates]
            found = tuple(
                Destination(f"terms {number}", candidate, targets)
                for number, (candidate, targets) in enumerate(made)
                if targets
            )
            if match.parameters.keys() <= _OF_THE_ROUTE:
                self._destinations[key] = found
        return found


class Router:
    """Finds routes; each is made once a day, because rows come into force at 00:00 UTC, and when a variant by the hour
    begins or ends to apply."""

    def __init__(
        self,
        providers: Mapping[str, ProviderConfig],
        models: Mapping[str, ModelConfig],
        prices: PriceTable,
        health: HealthBoard,
    ) -> None:
        """`health` is that of the providers' targets."""
        self._health = health
        self._providers = providers
        self._models = models
        self._prices = prices
        self.may_be_free = _may_be_free(prices)
        """Whether there may be a model that costs nothing."""
        self._by_target = {
            (model.provider, model.model): name
            for name, model in sorted(models.items(), key=lambda item: (item[0] == item[1].model, item[0]))
        }
        self._patterns = sorted((name for name in models if name.endswith("*")), key=len, reverse=True)
        """Entries that stand for many names, the longest first."""
        self._found: dict[str, tuple[Route | None, float]] = {}
        """By name: the route, and the Unix time up to which its price holds."""

    def find(self, name: str, now_s: float) -> Route | None:
        """The route of a model name, priced at a Unix time; None when there is none or its provider is off."""
        route, until_s = self._found.get(name, (None, 0.0))
        if now_s < until_s:
            return route
        if len(self._found) >= MAX_FOUND:
            self._found.clear()
        candidates, route, ends = self._candidates(name, now_s), None, MINUTES_OF_DAY
        if candidates:
            first, *fallbacks = [self._priced(each, now_s) for each in candidates]
            # A fallback without a price could not be charged for: it is not asked.
            route = Route(first.entry, (first, *(each for each in fallbacks if each.rates is not None)))
            ends = min(_span(each.rates.row, now_s)[1] if each.rates else ends for each in route.candidates)
        self._found[name] = route, now_s - now_s % DAY_S + ends * MINUTE_S
        return route

    def reprice(self, prices: PriceTable) -> None:
        """Price requests by another table from now on; those that were admitted keep theirs."""
        self._prices = prices
        self.may_be_free = _may_be_free(prices)
        self._found.clear()

    def with_others(
        self, candidate: Candidate, models: Iterable[str], now_s: float
    ) -> tuple[Candidate, list[str], list[str]]:
        """A candidate with which other models of its provider may answer as well; what each of them is called here, as
        `find` resolves names; and those that have no price at a Unix time."""
        provider = candidate.provider.name
        rows = {model: self._prices.find(provider, model, now_s) for model in models}
        entries = [self._entry_of(provider, model, now_s) for model in rows]
        others = {model: Rates.of(row, _span(row, now_s)[0]) for model, row in rows.items() if row is not None}
        searches = max([candidate.online_searches, *map(_searches_of, rows)])
        unpriced = [model for model, row in rows.items() if row is None]
        return replace(candidate, others=others, online_searches=searches), entries, unpriced

    def _entry_of(self, provider: str, model: str, now_s: float) -> str:
        """Return what a provider's model is called here."""
        entry = self._by_target.get((provider, model))
        if entry is not None:
            return entry
        config = self._matching(model, now_s)
        return model if config is not None and config.provider == provider else f"{provider}/{model}"

    def entries(self, now_s: float) -> Iterable[Route]:
        """The configured entries whose provider is on."""
        for name in dict.fromkeys(name for entry in self._models for name in self._names(entry)):
            route = self.find(name, now_s)
            if route is not None:
                yield route

    def _priced(self, candidate: Candidate, now_s: float) -> Candidate:
        row = self._prices.find(candidate.provider.name, candidate.model, now_s)
        rates = Rates.of(row, _span(row, now_s)[0]) if row is not None else None
        return replace(candidate, rates=rates, prices=self._prices, priced_at_s=now_s)

    def _names(self, entry: str) -> Iterable[str]:
        """The names that clients may ask for by an entry."""
        config = self._models[entry]
        if not entry.endswith("*"):
            return (entry,)
        if not self._providers[config.provider].enabled:
            return ()
        return (name for name in self._prices.models(config.provider) if name.startswith(entry[:-1]))

    def _matching(self, name: str, now_s: float) -> ModelConfig | None:
        """The entry of the longest prefix whose provider has a price for a name, under that name."""
        for pattern in self._patterns:
            config = self._models[pattern]
            if name.startswith(pattern[:-1]) and self._prices.find(config.provider, name, now_s) is not None:
                return replace(config, name=name, model=name)
        return None

    def _candidates(self, name: str, now_s: float) -> list[Candidate]:
        """Return who may serve a name: its entry, then its fallbacks whose providers are on; a fallback's own fallbacks
        are not followed. Empty where there is no such entry or its provider is off."""
        config = self._config(name, now_s)
        if config is None:
            return []
        own = self._candidate(config)
        if own is None:
            return []
        made = [(each, self._candidate(self._models[each])) for each in config.fallbacks if each in self._models]
        further = [replace(each, entry=own.entry, fallback=listed) for listed, each in made if each is not None]
        return [own, *further]

    def _config(self, name: str, now_s: float) -> ModelConfig | None:
        """Return the entry that a name leads to, or one made for `provider/model`."""
        if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:  # Postgres has no place for NUL
            return None
        config = None if name.endswith("*") else self._models.get(name) or self._matching(name, now_s)
        if config is None:
            provider_name, slash, model = name.partition("/")
            if not slash or not model or provider_name not in self._providers:
                return None
            entry = self._by_target.get((provider_name, model))
            config = self._models[entry] if entry else self._matching(model, now_s)
            if config is None or config.provider != provider_name:
                config = ModelConfig(name, provider_name, model)
        return config

    def _candidate(self, config: ModelConfig) -> Candidate | None:
        """Return the candidate of an entry, without its price; None where its provider is off."""
        provider = self._providers[config.provider]
        if not provider.enabled:
            return None
        exact = config.vocabulary is not None or provider.kind == "local" or is_openai_model(config.model)
        return Candidate(
            config.name,
            provider,
            config.model,
            config.markup_scaled,
            config.vocabulary or vocabulary_for(config.model),
            config.max_output_tokens,
            exact_vocabulary=exact,
            online_searches=ONLINE_SEARCHES if ONLINE in config.model.lower() else 0,
            searches_itself=_SEARCHES_ITSELF.search(config.model) is not None,
            health=self._health.of(provider.name),
            disconnect_drain_s=(
                provider.disconnect_drain_s if config.disconnect_drain_s is None else config.disconnect_drain_s
            ),
        )


def _may_be_free(prices: PriceTable) -> bool:
    return any(not row.dearest_nano(INPUT_CLASSES) for row in prices.rows)


def _span(row: PriceRow, now_s: float) -> tuple[int, int]:
    """The minutes of the UTC day between which the same variants of a row apply."""
    minute, changes = int(now_s % DAY_S // MINUTE_S), row.changes_at
    begins = max((change for change in changes if change <= minute), default=0)
    return begins, min((change for change in changes if change > minute), default=MINUTES_OF_DAY)


def _searches_of(model: str) -> int:
    """What another model that may answer searches by its name alone."""
    return ONLINE_SEARCHES if ONLINE in model.lower() else int(_SEARCHES_ITSELF.search(model) is not None)
