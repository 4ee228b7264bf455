"""The worst case of a request, which is what its hold covers, and the charge of what it came to. Pure.

This file owns that a hold is a true upper bound (docs/limits.md): a token takes at least one byte of input, every class
counts at the dearest that it could fall in, work that the provider does beside one call counts as often as it may be
done, and where the client gave no maximum the hold is elastic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING

import msgspec

from billing.errors import MetergateError
from billing.holds.model import Need, NeedTooLarge
from billing.ledger.debits import encode_shares, share_of
from billing.money import MAX_NANO
from billing.pricing import COST_SCALE, round_up
from billing.usage import MAX_COUNT, ModelUsage, TextUsage, Usage
from gateway.dialects.body import quoted
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Reported
from gateway.proxy.candidates import Candidate, Rates
from gateway.proxy.provider_tools import call_tokens, grown_input, most_granted, own_searches, searches_with, uses_with

if TYPE_CHECKING:
    from billing.pricing import PriceRow
    from gateway.config.defaults import EstimateSettings

# Of ordinary English; for holds that are estimates (`strict: false`).
BYTES_PER_TOKEN = 4
# Above every count of tokens.
NO_WINDOW = 1 << 62
# Service tiers that cost more than the standard one.
DEARER_TIERS = frozenset({"priority", "fast"})


class NotPriced(MetergateError):
    """No price, or nothing that bounds what the request could cost."""


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a usage costs: the provider's price and what the account is charged, in nano-USD. `price_id` names the row
    that it was made from; None where none was asked, because nothing is charged."""

    cost_nano: int
    charged_nano: int
    multiplier: str | None
    """The variant of the row, as `PriceRow.variant` names it."""
    price_id: str | None = None
    by_model: str | None = None
    """What each model used, where several did, as a debit keeps it."""


class Plain(msgspec.Struct, frozen=True, gc=False):
    """What plain requests on a route are bounded by: those that bring nothing but the text of their bodies to one
    model. `markup_scaled` is the markup that applies, `unit_nano` the most that an output token costs, `window` the
    context window, `NO_WINDOW` where it is not known. A request that does not say how much the model may write may have
    from `least_output` to `own_output` tokens; 0 where the model's own maximum is not known."""

    rates: Rates
    markup_scaled: int
    unit_nano: int
    window: int
    own_output: int
    least_output: int
    untiered: Plain | None = None
    """The same for requests that reach none of the row's tiers."""
    untiered_tokens: int = 0

    @classmethod
    def of(cls, route: Candidate, markup_scaled: int, rules: EstimateSettings) -> Plain | None:
        """Return None where requests on this route take a closer look."""
        rates = route.rates
        if rates is None or rates.input_unpriced or rates.output_unpriced or route.others or not rules.strict:
            return None
        if route.online_searches or route.searches_itself:
            return None
        own, window = route.max_output_tokens or 0, route.context_window or NO_WINDOW
        least = min(rules.min_output_tokens, own)
        made = cls(rates, markup_scaled, rates.unit_nano(markup_scaled), window, own, least)
        if (untiered := rates.untiered) is None:
            return made
        lower = cls(untiered, markup_scaled, untiered.unit_nano(markup_scaled), window, own, least)
        return msgspec.structs.replace(made, untiered=lower, untiered_tokens=rates.untiered_tokens)

    def need(self, parsed: ParsedRequest, counted: int | None = None) -> Need | None:
        """Return as `worst_case` of a plain request; None of any other. Raises `NeedTooLarge`."""
        most, choices, window = parsed.max_output_tokens, parsed.choices, self.window
        if (
            not parsed.has_output
            or parsed.parts is not NO_PARTS
            or parsed.work is not NO_WORK
            or parsed.unbounded_input
            or parsed.context_window
            or parsed.service_tier in DEARER_TIERS
            or (most is None and not self.own_output)
        ):
            return None
        bound = parsed.input_bound_tokens
        if counted is not None and counted < bound:
            bound = counted
        if window < bound:
            bound = window
        if most is None:
            most, least = self.own_output, self.least_output
        else:
            least = most = window if window < most else most
        tokens = bound * choices
        if tokens > MAX_COUNT or most * choices > MAX_COUNT:
            return None  # too large, which `worst_case` says
        priced = self.untiered if self.untiered is not None and tokens <= self.untiered_tokens else self
        unit_nano = priced.unit_nano * choices
        return Need(tokens, priced.rates.input_nano(tokens, self.markup_scaled), unit_nano, choices, least, most)


def worst_case(
    parsed: ParsedRequest,
    route: Candidate,
    plan_markup_scaled: int,
    rules: EstimateSettings,
    counted: int | None = None,
) -> Need:
    """Return what a request can use at most, by the dearest of the models that may answer it; `counted` are its input
    tokens where somebody has counted them.

    Raises `NotPriced`, `billing.holds.model.NeedTooLarge`.
    """
    if route.rates is None:
        raise NotPriced(f"The model {quoted(route.entry)} has no price here")
    needs = [] if route.is_router else [_worst_case(parsed, route, route.rates, plan_markup_scaled, rules, counted)]
    for name, rates in route.others.items():
        other = replace(route, entry=name, rates=rates, own_max_output=None, others={}, answered_by=())
        needs.append(_worst_case(parsed, other, rates, plan_markup_scaled, rules, counted))
    need = reduce(_dearer, needs)
    if not route.is_router:
        return need
    rates, markup = route.rates, markup_of(route, plan_markup_scaled)
    return msgspec.structs.replace(
        need,
        input_cost_nano=need.input_cost_nano + rates.input_nano(need.input_tokens, markup),
        ladder=tuple((tokens, cost_nano + rates.input_nano(tokens, markup)) for tokens, cost_nano in need.ladder),
    )


def dearest(
    parsed: ParsedRequest,
    candidates: Sequence[Candidate],
    plan_markup_scaled: int,
    rules: EstimateSettings,
    counted: int | None = None,
) -> Need:
    """Return what a request can use at most, whichever of the candidates serves it. Raises as `worst_case`."""
    return reduce(_dearer, (worst_case(parsed, each, plan_markup_scaled, rules, counted) for each in candidates))


def _dearer(one: Need, other: Need) -> Need:
    """Return a need that covers both, and as many calls as both have."""
    ladder: tuple[tuple[int, int], ...] = ()
    if one.ladder and other.ladder:
        ladder = tuple(
            (max(tokens, other_tokens), max(cost_nano, other_cost_nano))
            for (tokens, cost_nano), (other_tokens, other_cost_nano) in zip(one.ladder, other.ladder, strict=False)
        )
    return Need(
        input_tokens=max(one.input_tokens, other.input_tokens),
        input_cost_nano=max(one.input_cost_nano, other.input_cost_nano),
        unit_nano=max(one.unit_nano, other.unit_nano),
        choices=one.choices,
        least_output=max(one.least_output, other.least_output),
        most_output=max(one.most_output, other.most_output),
        ladder=ladder,
    )


def _worst_case(
    parsed: ParsedRequest,
    route: Candidate,
    rates: Rates,
    plan_markup_scaled: int,
    rules: EstimateSettings,
    counted: int | None,
) -> Need:
    rates = rates.with_window(parsed.context_window)
    row, markup, choices = rates.row, markup_of(route, plan_markup_scaled), parsed.choices
    # What a request may bring must have a price, which may be zero: nothing is free because a row forgot it.
    if rates.input_unpriced and not parsed.work.search_units:
        raise NotPriced(f"The model {quoted(route.entry)} has no price for input here")
    if parsed.has_output and rates.output_unpriced:
        raise NotPriced(f"The model {quoted(route.entry)} has no price for output here")
    if parsed.service_tier in DEARER_TIERS and not row.knows_tier("priority"):
        raise NotPriced(f"The model {quoted(route.entry)} has no price for the service tier `priority` here")
    if parsed.work.fast and not any("speed" in variant.when for variant in row.variants):
        raise NotPriced(f"The model {quoted(route.entry)} has no price for another speed here")
    if (parsed.service_tier in DEARER_TIERS or parsed.work.fast) and row.variants:
        rates = Rates.of(row, rates.minute, asked=True)
    search_price = _prices_searches(parsed, route, rates)
    least, most = _output_bounds(parsed, route, rules)
    predicted = parsed.work.predicted * choices  # tokens, of which each takes a byte at least
    answers = choices * (1 + parsed.work.calls)
    granted = most_granted(parsed.work, rules.default_tool_calls)

    def input_of(granted: int) -> int:
        return _input_bound(parsed, route, row, rules, counted, granted) * choices

    # A tier is reached by the input that is charged: by that of all rounds, with as many calls as may be granted.
    unit = rates.up_to(input_of(granted) + predicted).unit_nano(markup) if parsed.has_output else 0

    def with_calls(granted: int) -> tuple[int, int]:
        """Return tokens and cost of the input with so many calls granted."""
        tokens = input_of(granted)
        searches = _searches(parsed, route, granted) * choices if search_price else 0
        reached = rates.up_to(tokens + predicted)
        return tokens + predicted, reached.input_nano(tokens, markup, searches) + unit * predicted

    input_tokens, input_nano = with_calls(min(granted, 1))
    if input_tokens > MAX_COUNT or most * answers > MAX_COUNT:
        raise NeedTooLarge(f"all its choices together may have more than {MAX_COUNT} tokens")
    need = Need(input_tokens, input_nano, unit * answers, answers, least, most)
    if granted < 2 or not rules.strict:
        return need
    ladder = [with_calls(calls) for calls in range(2, granted + 1)]
    most_nano = MAX_NANO - unit * answers * most
    fitting = tuple(rung for rung in ladder if rung[0] <= MAX_COUNT and rung[1] <= most_nano)
    return msgspec.structs.replace(need, ladder=fitting)


def _prices_searches(parsed: ParsedRequest, route: Candidate, rates: Rates) -> bool:
    """Return whether searches are charged by themselves. Raises `NotPriced` where those that there may be, or the sound
    that is asked for, have no price."""
    if parsed.work.audio and not rates.prices_audio:
        raise NotPriced(f"The model {quoted(route.entry)} has no price for audio output here")
    if "search" in rates.row.per_unit:
        return True
    units = parsed.work.search_units
    if _searches(parsed, route, 1) > units:
        raise NotPriced(f"The model {quoted(route.entry)} has no price for searches here")
    if units and "input" not in rates.row.per_million and "request" not in rates.row.per_unit:
        raise NotPriced(f"The model {quoted(route.entry)} has no price for a search or for input here")
    return False


def _searches(parsed: ParsedRequest, route: Candidate, granted: int) -> int:
    """Return the searches that one choice may bring with so many calls granted."""
    work = parsed.work
    return searches_with(work, granted) + own_searches(parsed, route) + work.search_units


def _input_bound(
    parsed: ParsedRequest, route: Candidate, row: PriceRow, rules: EstimateSettings, counted: int | None, granted: int
) -> int:
    """Return the most input tokens of one choice, with so many calls of open tools granted. A window bounds what one
    answer is made from, not a batch of embeddings. A use of a tool at the provider makes one more answer of it, whose
    input has grown by what the use brought; where a model is called beside the answer, each of them reads a whole
    window."""
    work, window = parsed.work, row.context_window
    own = own_searches(parsed, route)
    bound, uses = parsed.bound_input_tokens(row.part_tokens), uses_with(work, granted) + own
    if bound is not None and counted is not None:
        bound = min(bound, counted)
    whole_windows = work.calls > 0 or (uses > 0 and rules.strict_tools)
    if window is None and (bound is None or whole_windows):
        raise NotPriced(
            f"The model {quoted(route.entry)} has no known context window here to bound input outside the body"
        )
    if not parsed.has_output:
        total = max(window or 0, parsed.input_bound_tokens) if bound is None or uses else bound
    elif window is not None and whole_windows:
        total = window * (uses + work.calls + 1)
    else:
        first = min(each for each in (bound, window) if each is not None)
        step = call_tokens(work, own, row.tool_call_tokens, rules.tool_call_tokens)
        total = grown_input(first, step, uses + 1, window)
    return total if rules.strict else min(total, -(-parsed.input_bound_tokens // BYTES_PER_TOKEN))


def _output_bounds(parsed: ParsedRequest, route: Candidate, rules: EstimateSettings) -> tuple[int, int]:
    if not parsed.has_output:
        return 0, 0
    asked, own = parsed.max_output_tokens, route.max_output_tokens
    if asked is None and own is None:
        raise NotPriced(
            f"The model {quoted(route.entry)} has no known longest answer here: set a maximum in the request"
        )
    if not rules.strict:
        estimate = min(bound for bound in (asked, own, rules.estimated_output_tokens) if bound is not None)
        return estimate, estimate
    if asked is not None:
        most = route.within_window(asked)
        if parsed.work.calls:
            if own is None:
                raise NotPriced(
                    f"The model {quoted(route.entry)} has no known longest answer here, which bounds its further calls"
                )
            most = max(most, own)
        return most, most
    assert own is not None  # noqa: S101  (refused above)
    return min(rules.min_output_tokens, own), own


def markup_of(route: Candidate, plan_markup_scaled: int) -> int:
    """Return the markup that applies: a model's own goes before its plan's, which may be one for this model."""
    return route.markup_scaled or plan_markup_scaled


def billed_usage(usage: Usage, parsed: ParsedRequest, route: Candidate) -> Usage:
    """Return what a provider has counted, with what it bills and does not count: one search where the request asked for
    it, or the model searches by itself or is priced by the search."""
    counted = parsed.work.search_units > 0 and usage.input_tokens > 0  # zeros that are trusted are no search
    by_search = counted and route.rates is not None and "search" in route.rates.row.per_unit
    if (parsed.work.one_search or route.searches_itself or by_search) and not usage.searches:
        return usage.with_counts(searches=1)
    return usage


def charge(
    usage: Usage,
    route: Candidate,
    markup_scaled: int,
    service_tier: str | None,
    served: str | None = None,
    reported: Reported | None = None,
) -> Charge:
    """Return the price of a usage by the row that its hold was made with; where it was made with several, by that of
    the model that `served`. What other models used that are `reported` is added by their rows, and a router's fee for
    the input by its own; all are rounded up together. Raises `NotPriced`."""
    if route.rates is None:
        raise NotPriced(f"The model {quoted(route.entry)} has no price here")
    text, others = route.rates.text, route.others or route.answered_by or (reported is not None and reported.others)
    if text is not None and not others and isinstance(usage, TextUsage):
        scaled = text.cost_scaled(usage)
        cost_nano = -(-scaled // COST_SCALE)
        return Charge(
            cost_nano, round_up(scaled, markup_scaled) if markup_scaled else cost_nano, None, route.rates.row.id
        )
    model, rates = route.rates_of(served) if route.others else (route.model, route.rates)
    row = rates.row
    variant = _variant(row, rates.minute, service_tier, reported) if row.variants or row.multipliers else None
    scaled, by_model = row.cost_scaled(usage, variant), None
    further = [] if reported is None else [(each, route.row_of(each.model) or row) for each in reported.others]
    if route.is_router:
        further.append((ModelUsage(route.model, Usage(input_tokens=usage.input_tokens, requests=0)), route.rates.row))
    if further:
        shares = [share_of(model, usage, row.id, variant)]
        for other, other_row in further:
            other_variant = _variant(other_row, rates.minute, service_tier, reported)
            scaled += other_row.cost_scaled(other.usage, other_variant)
            shares.append(share_of(other.model, other.usage, other_row.id, other_variant))
        by_model = encode_shares(shares)
    cost_nano = round_up(scaled)
    charged_nano = round_up(scaled, markup_scaled) if markup_scaled else cost_nano
    return Charge(cost_nano, charged_nano, variant, row.id, by_model)


def _variant(row: PriceRow, minute: int, service_tier: str | None, reported: Reported | None) -> str | None:
    if reported is None:
        return row.variant(service_tier, minute=minute)
    return row.variant(service_tier, reported.processing, reported.speed, reported.region, minute)
