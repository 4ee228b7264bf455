"""Routing: from the model that a client names to the provider that answers. Pure but for the clock passed in.

This file owns what a model name resolves to: an entry of `config/metergate.yaml` by its name; for `provider/model` the
entry that leads there, else the provider's model as it is. Keys, plans and quotas match the resolved name.

What a model is for, and whether that may be free, is told by its price row and by its vendor's name for it. An entry
that stands for many names lists those alone that an endpoint here takes. An entry of its own is listed whatever it is
called: its operator has named it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from msgspec import structs

from billing.pricing import INPUT_CLASSES, MINUTES_OF_DAY, OUTPUT_CLASSES
from billing.quotas import DAY_S
from gateway.config.providers import ModelConfig
from gateway.dialects.declared import is_asked_here
from gateway.dialects.openai.vendors import online_searches, searches_itself
from gateway.proxy.candidates import Candidate, Rates, Route
from gateway.tokens import is_openai_model, vocabulary_for

if TYPE_CHECKING:
    from billing.pricing import PriceRow, PriceTable
    from gateway.config.providers import ProviderConfig
    from gateway.dialects.base import Match
    from gateway.proxy.target_health import HealthBoard


def is_priced_here(rates: Rates) -> bool:
    """Return whether its row prices what a request here is charged by: tokens, whole requests or searches."""
    return not rates.input_unpriced or "search" in rates.row.per_unit


def writes(rates: Rates) -> bool:
    """Return whether its row prices a written answer."""
    return not (rates.input_unpriced or rates.output_unpriced)


def costs_nothing(row: PriceRow, *, writes: bool) -> bool:
    """Return whether what a request may be charged is priced, at zero: input, and output where a model writes it."""
    classes = (*INPUT_CLASSES, *OUTPUT_CLASSES) if writes else INPUT_CLASSES
    free = [row.per_million.get(name) == 0 for name in ("input", *(("output",) if writes else ()))]
    if not all(free) or row.cost_reported:  # nearly all rows: the dearest of all their rates is not looked for
        return False
    return not row.dearest_nano(classes) and not any(map(row.dearest_unit, ("request", "search")))


MINUTE_S: Final = 60
MAX_NAME_BYTES: Final = 200
MAX_FOUND: Final = 10_000


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
        self._free_at = self._costing_nothing()
        self._by_target = {
            (model.provider, model.model): name
            for name, model in sorted(models.items(), key=lambda item: (item[0] == item[1].model, item[0]))
        }
        self._patterns = sorted((name for name in models if name.endswith("*")), key=len, reverse=True)
        """Entries that stand for many names, the longest first."""
        self._found: dict[str, tuple[Route | None, float]] = {}
        """By name: the route, and the Unix time up to which its price holds."""

    def find(self, name: str, now_s: float) -> Route | None:
        """Return the route of a model name, priced at a Unix time; None when there is none or its provider is off."""
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
            rates = [each for found in route.candidates for each in (found.rates, *found.others.values()) if each]
            ends = min((_span(each.row, now_s)[1] for each in rates), default=ends)
        self._found[name] = route, now_s - now_s % DAY_S + ends * MINUTE_S
        return route

    def reprice(self, prices: PriceTable) -> None:
        """Price requests by another table from now on; those that were admitted keep theirs."""
        self._prices = prices
        self._free_at = self._costing_nothing()
        self._found.clear()

    def may_be_free(self, match: Match) -> bool:
        """Return whether a request to an endpoint may cost nothing, by the model that it names."""
        return match.endpoint.free or (match.dialect.name, match.endpoint.writes) in self._free_at

    def _costing_nothing(self) -> frozenset[tuple[str, bool]]:
        """Return where providers that are on have models which cost nothing: by dialect, and by whether they write."""
        return frozenset(
            (dialect, writes)
            for row in self._prices.rows
            if (provider := self._providers.get(row.provider)) is not None and provider.enabled
            for writes in (True, False)
            if costs_nothing(row, writes=writes)
            for dialect in provider.served
        )

    def with_others(
        self, candidate: Candidate, models: Iterable[str], now_s: float
    ) -> tuple[Candidate, list[str], list[str]]:
        """Return a candidate with which other models of its provider may answer as well; what each of them is called
        here, as `find` resolves names; and those that have no price at a Unix time."""
        provider = candidate.provider.name
        rows = {model: self._prices.find(provider, model, now_s) for model in models}
        entries = [self._entry_of(provider, model, now_s) for model in rows]
        others = {model: Rates.of(row, _span(row, now_s)[0]) for model, row in rows.items() if row is not None}
        searches = max(
            [candidate.online_searches, *(online_searches(model) or int(searches_itself(model)) for model in rows)]
        )
        unpriced = [model for model, row in rows.items() if row is None]
        others = {**candidate.others, **others}
        return replace(candidate, others=others, online_searches=searches), entries, unpriced

    def _entry_of(self, provider: str, model: str, now_s: float) -> str:
        """Return what a provider's model is called here."""
        entry = self._by_target.get((provider, model))
        if entry is not None:
            return entry
        config = self._matching(model, now_s)
        return model if config is not None and config.provider == provider else f"{provider}/{model}"

    def entries(self, now_s: float) -> Iterable[Route]:
        """Return the configured entries whose provider is on."""
        for name in dict.fromkeys(name for entry in self._models for name in self._names(entry)):
            route = self.find(name, now_s)
            if route is not None:
                yield route

    def _priced(self, candidate: Candidate, now_s: float) -> Candidate:
        row = self._prices.find(candidate.provider.name, candidate.model, now_s)
        rates = Rates.of(row, _span(row, now_s)[0]) if row is not None else None
        priced = replace(candidate, rates=rates, prices=self._prices, priced_at_s=now_s)
        if not candidate.answered_by:
            return priced
        routed, _, unpriced = self.with_others(priced, candidate.answered_by, now_s)
        return replace(routed, rates=None if unpriced else rates)

    def _names(self, entry: str) -> Iterable[str]:
        """Return the names that clients may ask for by an entry."""
        config = self._models[entry]
        if not entry.endswith("*"):
            return (entry,)
        provider = self._providers[config.provider]
        if not provider.enabled:
            return ()
        names = self._prices.models(config.provider)
        return (name for name in names if name.startswith(entry[:-1]) and is_asked_here(name, provider.served))

    def _matching(self, name: str, now_s: float) -> ModelConfig | None:
        """Return the entry of the longest prefix whose provider has a price for a name, under that name."""
        for pattern in self._patterns:
            config = self._models[pattern]
            if name.startswith(pattern[:-1]) and self._prices.find(config.provider, name, now_s) is not None:
                return structs.replace(config, name=name, model=name)
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
            online_searches=online_searches(config.model),
            searches_itself=searches_itself(config.model),
            health=self._health.of(provider.name),
            answered_by=config.answered_by,
            disconnect_drain_s=(
                provider.disconnect_drain_s if config.disconnect_drain_s is None else config.disconnect_drain_s
            ),
            default_tool_calls=config.default_tool_calls,
        )


def _span(row: PriceRow, now_s: float) -> tuple[int, int]:
    """Return the minutes of the UTC day between which the same variants of a row apply."""
    minute, changes = int(now_s % DAY_S // MINUTE_S), row.changes_at
    begins = max((change for change in changes if change <= minute), default=0)
    return begins, min((change for change in changes if change > minute), default=MINUTES_OF_DAY)
