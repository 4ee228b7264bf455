"""Candidates: a provider and its model that may serve a request, with the rates it is held and charged by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import msgspec

from billing.money import ceil_div
from billing.pricing import COST_SCALE, INPUT_CLASSES, MILLION, OUTPUT_CLASSES, round_up
from gateway.proxy.headers import Fixed
from gateway.server.ids import served_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from billing.pricing import PriceRow, PriceTable
    from billing.usage import TextUsage
    from gateway.config.providers import ProviderConfig
    from gateway.dialects.base import Match
    from gateway.upstream.health import TargetHealth


# What of a path is the same for all requests on a route.
OF_THE_ROUTE: Final = frozenset({"model"})


class TextPrice(msgspec.Struct, frozen=True, gc=False):
    """What text costs by a row without tiers, variants and multipliers: nano-USD / `COST_SCALE` of a token of each
    class, and of a request. As `PriceRow.cost_scaled`, for a third of its time."""

    input: int
    cached_input: int
    output: int
    reasoning: int
    request: int

    @classmethod
    def of(cls, row: PriceRow) -> TextPrice | None:
        """Return a row's price of text; None where it has more than one."""
        if row.tiers or row.variants or row.multipliers or row.cost_reported:
            return None
        scale = COST_SCALE // MILLION  # rates are by the million
        return cls(
            input=row.rate("input", 0) * scale,
            cached_input=row.rate("cached_input", 0) * scale,
            output=row.rate("output", 0) * scale,
            reasoning=row.rate("reasoning", 0) * scale,
            request=row.per_unit.get("request", 0) * COST_SCALE,
        )

    def cost_scaled(self, usage: TextUsage) -> int:
        """Return the exact cost in nano-USD / `COST_SCALE`."""
        cost = usage.input_tokens * self.input + usage.output_tokens * self.output + self.request
        if cached := usage.cached_input_tokens:
            cost += cached * (self.cached_input - self.input)
        if reasoning := usage.reasoning_tokens:
            cost += reasoning * (self.reasoning - self.output)
        return cost


@dataclass(frozen=True, slots=True)
class Rates:
    """A price row as admission needs it: dearest rates in nano-USD per million tokens, markup included later."""

    row: PriceRow
    input_rate: int
    output_rate: int
    request_nano: int
    input_unpriced: bool = False
    output_unpriced: bool = False
    """Whether these would be free because the row forgot them: one that prices seconds or pages alone says nothing of
    tokens. A row that prices whole requests alone has forgotten nothing."""
    search_nano: int = 0
    minute: int = 0
    """A minute of the UTC day at which the variants apply that do while this is in force."""
    prices_audio: bool = False
    """Whether the row has a price of its own for spoken output."""
    untiered: Rates | None = None
    """The rates of requests with at most `untiered_tokens` of input, which reach no tier; None where there are none."""
    untiered_tokens: int = 0
    text: TextPrice | None = None
    """The price of text where the row has one alone; what it costs follows from the row like the bounds above."""
    _units: dict[int, int] = field(default_factory=dict, repr=False, compare=False)
    """Bounds of one output token, by markup: there are as many as plans."""

    @classmethod
    def of(cls, row: PriceRow, minute: int = 0, *, asked: bool = False) -> Rates:
        """Return a row's dearest rates; `asked`: also by variants that apply to requests which ask for them."""
        by_request = not row.per_million and "request" in row.per_unit
        rates = cls(
            row,
            row.dearest_nano(INPUT_CLASSES, asked=asked),
            row.dearest_nano(OUTPUT_CLASSES, asked=asked),
            row.dearest_unit("request"),
            input_unpriced="input" not in row.per_million and not by_request,
            output_unpriced="output" not in row.per_million and not by_request,
            search_nano=row.dearest_unit("search"),
            minute=minute,
            prices_audio="audio_output" in row.per_million,
            text=TextPrice.of(row),
        )
        untiered_tokens = row.untiered_tokens
        if untiered_tokens is None:
            return rates
        input_rate = row.dearest_nano(INPUT_CLASSES, asked=asked, tiered=False)
        output_rate = row.dearest_nano(OUTPUT_CLASSES, asked=asked, tiered=False)
        untiered = replace(rates, input_rate=input_rate, output_rate=output_rate, _units={})
        return replace(rates, untiered=untiered, untiered_tokens=untiered_tokens)

    def up_to(self, input_tokens: int) -> Rates:
        """Return the rates of a request with at most so much input, which may reach fewer tiers."""
        return self if self.untiered is None or input_tokens > self.untiered_tokens else self.untiered

    def with_window(self, tokens: int) -> Rates:
        """Return the same rates for a request whose context window is raised to so many tokens; rates have all
        tiers in any case."""
        window = self.row.context_window
        if window is None or window >= tokens:
            return self
        return replace(self, row=replace(self.row, context_window=tokens))

    def input_nano(self, tokens: int, markup_scaled: int, searches: int = 0) -> int:
        """Return an upper bound of what so much input costs, the price of the request itself and of so many searches
        included, in nano-USD."""
        millionths = tokens * self.input_rate + (self.request_nano + searches * self.search_nano) * MILLION
        if not markup_scaled:
            return ceil_div(millionths, MILLION)
        return round_up(millionths * (COST_SCALE // MILLION), markup_scaled)

    def unit_nano(self, markup_scaled: int) -> int:
        """Return an upper bound of one output token's cost, in whole nano-USD."""
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
    default_tool_calls: int | None = None
    """The most calls of tools at the provider that are granted to a request which leaves them open; None: as `defaults`
    say."""
    fallback: str | None = None
    """Where it is a fallback of `entry`, the entry that describes it."""
    health: tuple[TargetHealth, ...] = field(default=(), repr=False, compare=False)
    """That of the provider's targets, in their order."""
    prices: PriceTable | None = field(default=None, repr=False, compare=False)
    """The table that `rates` are of, and the Unix time at which they are."""
    priced_at_s: float = field(default=0.0, compare=False)
    others: Mapping[str, Rates] = field(default_factory=dict)
    """Prices of other models of this provider that may answer, by their names there, where the entry or a request names
    some."""
    answered_by: tuple[str, ...] = ()
    """The models of which one answers each request, where this one is a router: `rates` are the fee for choosing it."""

    @property
    def is_router(self) -> bool:
        """Return whether another model of the provider answers each request."""
        return bool(self.answered_by)

    @property
    def hides_reasoning(self) -> bool:
        """Return whether answers may bill output that they don't show."""
        return self.rates is not None and self.rates.row.hidden_reasoning

    @property
    def max_output_tokens(self) -> int | None:
        """Return the most output tokens that one answer can have, by the route or its price row; a router's by those of
        the models that it chooses from."""
        if self.own_max_output is not None or self.rates is None:
            return self.own_max_output
        if self.is_router:
            return _largest(each.row.max_output_tokens or each.row.context_window for each in self.others.values())
        return self.rates.row.max_output_tokens or self.rates.row.context_window

    @property
    def context_window(self) -> int | None:
        """Return the largest context window of the models that may answer; None where one of them has none in its
        row."""
        if self.rates is None:
            return None
        return _largest(each.row.context_window for each in self.answering.values())

    @property
    def answering(self) -> Mapping[str, Rates]:
        """Return the prices of the models that may answer, by their names; none where no price is in force."""
        if self.rates is None or self.is_router:
            return self.others
        return {self.model: self.rates, **self.others}

    @property
    def costs_no_input(self) -> bool:
        """Return whether input has a price, and that is zero in every class."""
        if self.rates is None or self.others:
            return False
        return not self.rates.input_rate and "input" in self.rates.row.per_million

    @property
    def costs_nothing(self) -> bool:
        """Return whether there is a price, and that is zero in every class and unit that an answer may have."""
        rates = self.rates
        if rates is None or self.others:
            return False
        return not (rates.input_rate or rates.output_rate or rates.request_nano or rates.search_nano)

    def within_window(self, asked: int) -> int:
        """Return a client's own maximum of output tokens, up to the context window, beyond which no model writes."""
        window = self.context_window
        return asked if window is None else min(asked, window)

    def named(self, served: str | None) -> str | None:
        """Return which of the models that may answer an answer names: the longest name that it begins with (providers
        add a date); None where it is none of them."""
        known = [name for name in self.answering if served is not None and served.startswith(name)]
        return max(known, key=len) if known else None

    def rates_of(self, served: str | None) -> tuple[str, Rates]:
        """Return the model that an answer names and its prices; the dearest where it names none that may answer. There
        must be a price."""
        answering, name = self.answering, self.named(served)
        if name is None:
            name = max(answering, key=lambda each: (answering[each].output_rate, answering[each].input_rate))
        return name, answering[name]

    def row_of(self, model: str) -> PriceRow | None:
        """Return the price row of another model of this provider, from the table by which the request was admitted."""
        return self.prices.find(self.provider.name, model, self.priced_at_s) if self.prices is not None else None


def _largest(bounds: Iterable[int | None]) -> int | None:
    """Return the largest of some bounds; None where one of them is not known."""
    known = list(bounds)
    return None if None in known else max(bound for bound in known if bound is not None)


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where a provider takes requests to one endpoint, by one of its base URLs and keys, whose `health` is that of all
    endpoints. `url` has the query of the base URL, which is `base_query`; `fixed` is what all requests there carry;
    `max_field` is the field of a maximum; `takes_query` says whether a client's query string goes there; `lines` are
    header lines of its answers that name provider and model."""

    url: str
    base_query: str
    fixed: Fixed
    max_field: str
    takes_query: bool
    health: TargetHealth
    lines: bytes

    @classmethod
    def all_of(
        cls, provider: ProviderConfig, match: Match, model: str, health: Sequence[TargetHealth]
    ) -> tuple[Target, ...]:
        """Return the targets of a provider that serve the dialect; `health` is that of `provider.all_targets`, in their
        order, and `model` the provider's own name for it."""
        dialect = match.dialect
        field = dialect.max_field(match.endpoint.operation, provider.max_output_field)
        path, lines = dialect.upstream_path(match, model), served_lines(provider.name, model)
        header, before = dialect.declared.provider_key
        takes_query = provider.kind != "local" or bool(dialect.passed_parameters)
        made = []
        for target, of_target in zip(provider.all_targets, health, strict=True):
            found = provider.url_of(dialect.name, target)
            if found is None:
                continue
            base, query = found
            url = base + path + (f"?{query}" if query else "")
            auth = (header, before + target.api_key.reveal()) if target.api_key is not None else None
            fixed = Fixed.of(auth, target.headers, provider.pass_headers)
            made.append(cls(url, query, fixed, field, takes_query, of_target, lines))
        return tuple(made)


class Destination(msgspec.Struct, frozen=True):
    """A candidate and the targets, at least one, by which its provider takes requests to one endpoint. `kept_as` is
    the name under which its terms are kept with a principal."""

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
        """Return the candidate that is listed: by its price and limits."""
        return self.candidates[0]

    @property
    def served(self) -> frozenset[str]:
        """Return the names of the dialects in which a request may reach any candidate."""
        return frozenset().union(*(candidate.provider.served for candidate in self.candidates))

    def destinations(self, match: Match) -> tuple[Destination, ...]:
        """Return the candidates whose providers serve the dialect of an endpoint."""
        key = (match.dialect.name, match.endpoint.operation)
        found = self._destinations.get(key)
        if found is None:
            made = [(each, Target.all_of(each.provider, match, each.model, each.health)) for each in self.candidates]
            found = tuple(
                Destination(f"terms {number}", candidate, targets)
                for number, (candidate, targets) in enumerate(made)
                if targets
            )
            if match.parameters.keys() <= OF_THE_ROUTE:
                self._destinations[key] = found
        return found
