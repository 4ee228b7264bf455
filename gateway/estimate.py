"""The worst case of a request, which is what its hold covers, and the charge of what it came to. Pure.

This file owns that a hold is a true upper bound (SPEC 3): a token takes at least one byte of input, every class counts
at the dearest that it could fall in, and where the client gave no maximum the hold is elastic.
"""

from dataclasses import dataclass

import msgspec

from billing.holds.decision import Need, NeedTooLarge
from billing.prices import PriceRow, round_up
from billing.usage import MAX_COUNT, Usage
from gateway.providers.dialect import ParsedRequest
from gateway.routing import Route

BYTES_PER_TOKEN = 4
"""Of ordinary English; for holds that are estimates (`strict: false`)."""


class NotPriced(Exception):
    """No price, or nothing that bounds what the request could cost."""


@dataclass(frozen=True, slots=True)
class EstimateRules:
    """`defaults` of the configuration that holds follow."""

    strict: bool = True
    min_output_tokens: int = 16
    estimated_output_tokens: int = 512


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a usage costs: the provider's price and what the account is charged, in nano-USD."""

    cost_nano: int
    charged_nano: int
    multiplier: str | None


def worst_case(
    parsed: ParsedRequest, route: Route, plan_markup_scaled: int, rules: EstimateRules, counted: int | None = None
) -> Need:
    """What a request can use at most; `counted` are its input tokens where somebody has counted them.

    Raises `NotPriced`, `billing.holds.decision.NeedTooLarge`.
    """
    rates = route.rates
    if rates is None:
        raise NotPriced(f"The model `{route.entry}` has no price here")
    row, markup, choices = rates.row, markup_of(route, plan_markup_scaled), parsed.choices
    # What a request may bring must have a price, which may be zero: nothing is free because a row forgot it.
    if parsed.has_output and rates.output_unpriced:
        raise NotPriced(f"The model `{route.entry}` has no price for output here")
    if parsed.service_tier == "priority" and "priority" not in (row.multipliers or {}):
        raise NotPriced(f"The model `{route.entry}` has no price for the service tier `priority` here")
    bound = _input_bound(parsed, route.entry, row, rules)
    input_tokens = (bound if counted is None else min(bound, counted)) * choices
    least, most = _output_bounds(parsed, route, rules)
    if input_tokens > MAX_COUNT or most * choices > MAX_COUNT:
        raise NeedTooLarge(f"all its choices together may have more than {MAX_COUNT} tokens")
    unit = rates.unit_nano(markup) * choices if parsed.has_output else 0
    return Need(input_tokens, rates.input_nano(input_tokens, markup), unit, choices, least, most)


def _input_bound(parsed: ParsedRequest, entry: str, row: PriceRow, rules: EstimateRules) -> int:
    """The most input tokens of one choice. A window bounds what one answer is made from, not a batch of embeddings."""
    bound, window = parsed.bound_input_tokens(row.part_tokens), row.context_window
    if bound is None:
        if window is None:
            raise NotPriced(f"The model `{entry}` has no context_window to bound input that is not in the body")
        bound = window if parsed.has_output else max(window, parsed.input_bound_tokens)
    elif window is not None and parsed.has_output:
        bound = min(bound, window)
    if not rules.strict:
        bound = min(bound, -(-parsed.input_bound_tokens // BYTES_PER_TOKEN))
    return bound


def _output_bounds(parsed: ParsedRequest, route: Route, rules: EstimateRules) -> tuple[int, int]:
    if not parsed.has_output:
        return 0, 0
    asked, own = parsed.max_output_tokens, route.max_output_tokens
    if asked is None and own is None:
        raise NotPriced(f"The model `{route.entry}` has no max_output_tokens: name a maximum in the request")
    if not rules.strict:
        estimate = min(bound for bound in (asked, own, rules.estimated_output_tokens) if bound is not None)
        return estimate, estimate
    if asked is not None:
        most = within_window(asked, route)
        return most, most
    assert own is not None  # noqa: S101  (refused above)
    return min(rules.min_output_tokens, own), own


def within_window(asked: int, route: Route) -> int:
    """A client's own maximum of output tokens, up to the context window, beyond which no model writes."""
    window = route.rates.row.context_window if route.rates is not None else None
    return asked if window is None else min(asked, window)


def markup_of(route: Route, plan_markup_scaled: int) -> int:
    """A model's own markup goes before its plan's."""
    return route.markup_scaled or plan_markup_scaled


def charge(usage: Usage, route: Route, markup_scaled: int, service_tier: str | None) -> Charge:
    """The price of a usage by the row that its hold was made with. Raises `NotPriced`."""
    if route.rates is None:
        raise NotPriced(f"The model `{route.entry}` has no price here")
    row = route.rates.row
    multiplier = service_tier if row.multipliers and service_tier in row.multipliers else None
    scaled = row.cost_scaled(usage, multiplier)
    cost_nano = round_up(scaled)
    return Charge(cost_nano, round_up(scaled, markup_scaled) if markup_scaled else cost_nano, multiplier)
