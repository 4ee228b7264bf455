"""The worst case of a request, which is what its hold covers, and the charge of what it came to. Pure.

This file owns that a hold is a true upper bound (docs/limits.md): a token takes at least one byte of input, every class
counts at the dearest that it could fall in, work that the provider does beside one call counts as often as it may be
done, and where the client gave no maximum the hold is elastic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import msgspec

from billing.errors import MetergateError
from billing.holds.decision import Need, NeedTooLarge
from billing.ledger.usage_columns import encode_shares, share_of
from billing.rates import round_up
from billing.usage import MAX_COUNT, ModelUsage, Usage
from gateway.dialects.facts import NO_PARTS, NO_WORK, ParsedRequest, Reported
from gateway.proxy.candidates import Candidate, Rates

if TYPE_CHECKING:
    from billing.prices import PriceRow

BYTES_PER_TOKEN = 4
"""Of ordinary English; for holds that are estimates (`strict: false`)."""
NO_WINDOW = 1 << 62
"""Above every count of tokens."""
DEARER_TIERS = frozenset({"priority", "fast"})
"""Service tiers that cost more than the standard one."""


class NotPriced(MetergateError):
    """No price, or nothing that bounds what the request could cost."""


@dataclass(frozen=True, slots=True)
class EstimateRules:
    """`defaults` of the configuration that holds follow."""

    strict: bool = True
    min_output_tokens: int = 16
    estimated_output_tokens: int = 512
    moderation_model: str = ""
    """What stands for a model that a request leaves to the provider; none where it is empty."""


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

    @classmethod
    def of(cls, route: Candidate, markup_scaled: int, rules: EstimateRules) -> Plain | None:
        """Return None where requests on this route take a closer look."""
        rates = route.rates
        if rates is None or rates.input_unpriced or rates.output_unpriced or route.others or not rules.strict:
            return None
        if route.online_searches or route.searches_itself:
            return None
        own, window = route.max_output_tokens or 0, route.context_window or NO_WINDOW
        least = min(rules.min_output_tokens, own)
        return cls(rates, markup_scaled, rates.unit_nano(markup_scaled), window, own, least)

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
        unit_nano = self.unit_nano * choices
        return Need(tokens, self.rates.input_nano(tokens, self.markup_scaled), unit_nano, choices, least, most)


def worst_case(
    parsed: ParsedRequest, route: Candidate, plan_markup_scaled: int, rules: EstimateRules, counted: int | None = None
) -> Need:
    """Return what a request can use at most, by the dearest of the models that may answer it; `counted` are its input
    tokens where somebody has counted them.

    Raises `NotPriced`, `billing.holds.decision.NeedTooLarge`.
    """
    if route.rates is None:
        raise NotPriced(f"The model `{route.entry}` has no price here")
    needs = [] if route.is_router else [_worst_case(parsed, route, route.rates, plan_markup_scaled, rules, counted)]
    for name, rates in route.others.items():
        other = replace(route, entry=name, rates=rates, own_max_output=None, others={}, answered_by=())
        needs.append(_worst_case(parsed, other, rates, plan_markup_scaled, rules, counted))
    need = reduce(_dearer, needs)
    if not route.is_router:
        return need
    fee_nano = route.rates.input_nano(need.input_tokens, markup_of(route, plan_markup_scaled))
    return msgspec.structs.replace(need, input_cost_nano=need.input_cost_nano + fee_nano)


def dearest(
    parsed: ParsedRequest,
    candidates: Sequence[Candidate],
    plan_markup_scaled: int,
    rules: EstimateRules,
    counted: int | None = None,
) -> Need:
    """Return what a request can use at most, whichever of the candidates serves it. Raises as `worst_case`."""
    return reduce(_dearer, (worst_case(parsed, each, plan_markup_scaled, rules, counted) for each in candidates))


def _dearer(one: Need, other: Need) -> Need:
    """Return a need that covers both."""
    return Need(
        input_tokens=max(one.input_tokens, other.input_tokens),
        input_cost_nano=max(one.input_cost_nano, other.input_cost_nano),
        unit_nano=max(one.unit_nano, other.unit_nano),
        choices=one.choices,
        least_output=max(one.least_output, other.least_output),
        most_output=max(one.most_output, other.most_output),
    )


def _worst_case(
    parsed: ParsedRequest,
    route: Candidate,
    rates: Rates,
    plan_markup_scaled: int,
    rules: EstimateRules,
    counted: int | None,
) -> Need:
    rates = rates.with_window(parsed.context_window)
    row, markup, choices = rates.row, markup_of(route, plan_markup_scaled), parsed.choices
    # What a request may bring must have a price, which may be zero: nothing is free because a row forgot it.
    if rates.input_unpriced and not parsed.work.search_units:
        raise NotPriced(f"The model `{route.entry}` has no price for input here")
    if parsed.has_output and rates.output_unpriced:
        raise NotPriced(f"The model `{route.entry}` has no price for output here")
    if parsed.service_tier in DEARER_TIERS and not row.knows_tier("priority"):
        raise NotPriced(f"The model `{route.entry}` has no price for the service tier `priority` here")
    if parsed.work.fast and not any("speed" in variant.when for variant in row.variants):
        raise NotPriced(f"The model `{route.entry}` has no price for another speed here")
    if (parsed.service_tier in DEARER_TIERS or parsed.work.fast) and row.variants:
        rates = Rates.of(row, rates.minute, asked=True)
    searches = _priced_searches(parsed, route, rates)
    bound = _input_bound(parsed, route, row, rules)
    if counted is not None and not parsed.unbounded_input and not own_searches(parsed, route):
        bound = min(bound, counted)
    input_tokens = bound * choices
    least, most = _output_bounds(parsed, route, rules)
    predicted = parsed.work.predicted * choices  # tokens, of which each takes a byte at least
    answers = choices * (1 + parsed.work.calls)
    if input_tokens + predicted > MAX_COUNT or most * answers > MAX_COUNT:
        raise NeedTooLarge(f"all its choices together may have more than {MAX_COUNT} tokens")
    unit = rates.unit_nano(markup) if parsed.has_output else 0
    input_nano = rates.input_nano(input_tokens, markup, searches * choices) + unit * predicted
    return Need(input_tokens + predicted, input_nano, unit * answers, answers, least, most)


def _priced_searches(parsed: ParsedRequest, route: Candidate, rates: Rates) -> int:
    """Return the searches that one choice may bring. Raises `NotPriced` where these, or the sound asked for, have no
    price."""
    if parsed.work.audio and not rates.prices_audio:
        raise NotPriced(f"The model `{route.entry}` has no price for audio output here")
    searches, units = parsed.work.searches + own_searches(parsed, route), parsed.work.search_units
    if "search" in rates.row.per_unit:
        return searches + units
    if searches:
        raise NotPriced(f"The model `{route.entry}` has no price for searches here")
    if units and "input" not in rates.row.per_million and "request" not in rates.row.per_unit:
        raise NotPriced(f"The model `{route.entry}` has no price for a search or for input here")
    return 0


def _input_bound(parsed: ParsedRequest, route: Candidate, row: PriceRow, rules: EstimateRules) -> int:
    """Return the most input tokens of one choice. A window bounds what one answer is made from, not a batch of
    embeddings; a use of a tool at the provider makes one more answer of it, and so does a further call."""
    bound, window = parsed.bound_input_tokens(row.part_tokens), row.context_window
    uses = parsed.work.uses + parsed.work.calls + own_searches(parsed, route)
    if bound is None or uses:
        if window is None:
            raise NotPriced(f"The model `{route.entry}` has no context_window to bound input that is not in the body")
        bound = window * (uses + 1) if parsed.has_output else max(window, parsed.input_bound_tokens)
    elif window is not None and parsed.has_output:
        bound = min(bound, window)
    return bound if rules.strict else min(bound, -(-parsed.input_bound_tokens // BYTES_PER_TOKEN))


def _output_bounds(parsed: ParsedRequest, route: Candidate, rules: EstimateRules) -> tuple[int, int]:
    if not parsed.has_output:
        return 0, 0
    asked, own = parsed.max_output_tokens, route.max_output_tokens
    if asked is None and own is None:
        raise NotPriced(f"The model `{route.entry}` has no max_output_tokens: name a maximum in the request")
    if not rules.strict:
        estimate = min(bound for bound in (asked, own, rules.estimated_output_tokens) if bound is not None)
        return estimate, estimate
    if asked is not None:
        most = route.within_window(asked)
        if parsed.work.calls:
            if own is None:
                raise NotPriced(f"The model `{route.entry}` has no max_output_tokens to bound further calls by")
            most = max(most, own)
        return most, most
    assert own is not None  # noqa: S101  (refused above)
    return min(rules.min_output_tokens, own), own


def markup_of(route: Candidate, plan_markup_scaled: int) -> int:
    """Return the markup that applies: a model's own goes before its plan's."""
    return route.markup_scaled or plan_markup_scaled


def own_searches(parsed: ParsedRequest, route: Candidate) -> int:
    """Return the searches that a model's name brings beside those that the request asks for."""
    return route.online_searches + (route.searches_itself and not parsed.work.one_search)


def billed_usage(usage: Usage, parsed: ParsedRequest, route: Candidate) -> Usage:
    """Return what a provider has counted, with what it bills and does not count: one search where the request asked for
    it, or the model searches by itself or is priced by the search."""
    counted = parsed.work.search_units > 0 and usage.input_tokens > 0  # zeros that are trusted are no search
    by_search = counted and route.rates is not None and "search" in route.rates.row.per_unit
    if (parsed.work.one_search or route.searches_itself or by_search) and not usage.searches:
        return msgspec.structs.replace(usage, searches=1)
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
        raise NotPriced(f"The model `{route.entry}` has no price here")
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
