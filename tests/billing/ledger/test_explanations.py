"""The lines of a charge, at the provider's prices and at the customer's own."""

from dataclasses import replace
from datetime import UTC, date, datetime
from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from billing.ledger.debits import ModelShare, UsageEvent, share_of
from billing.ledger.explanations import explain
from billing.pricing import FACTOR_SCALE, PriceRow, marked_up_usd, round_up
from billing.schemas.usage import ExplainedEventShape
from billing.usage import Usage

RATES = st.integers(0, 10**12)
MARKUPS = st.integers(0, 1000 * FACTOR_SCALE)
USAGES = st.builds(
    Usage,
    input_tokens=st.integers(0, 10**7),
    output_tokens=st.integers(0, 10**7),
    milliseconds=st.integers(0, 10**8),
    images=st.integers(0, 100),
)


@st.composite
def rows(draw: st.DrawFn, model: str) -> PriceRow:
    """Prices by the token, the unit, and the second or the hour, whose amounts may have no last digit."""
    per_unit = {draw(st.sampled_from(["second", "hour"])): draw(RATES), "image": draw(RATES)}
    multipliers = {"batch": draw(st.integers(1, 3 * FACTOR_SCALE))}
    per_million = {"input": draw(RATES), "output": draw(RATES)}
    return PriceRow("openai", model, date(2026, 1, 1), per_million, per_unit, multipliers=multipliers)


@st.composite
def events(draw: st.DrawFn) -> tuple[UsageEvent, PriceRow, dict[str, PriceRow]]:
    """A request that one or two models worked for, as it was charged."""
    prices = [draw(rows(model)) for model in ("one", "two")[: draw(st.integers(1, 2))]]
    usages = [draw(USAGES) for _ in prices]
    variant, markup = draw(st.sampled_from([None, "batch"])), draw(MARKUPS)
    scaled = sum(row.cost_scaled(usage, variant) for row, usage in zip(prices, usages, strict=True))
    shares: tuple[ModelShare, ...] = ()
    if len(prices) > 1:
        shares = tuple(share_of(row.model, each, row.id, variant) for row, each in zip(prices, usages, strict=True))
    event = UsageEvent(
        "req",
        datetime(2026, 11, 1, tzinfo=UTC),
        "settled",
        "acc",
        None,
        "key",
        None,
        None,
        "/v1",
        "llm",
        "fast",
        "openai",
        "one",
        usages[0],
        round_up(scaled),
        round_up(scaled, markup),
        prices[0].id,
        variant,
        markup,
        False,
        200,
        False,
        None,
        None,
        {},
        None,
        None,
        shares,
    )
    return event, prices[0], {row.id: row for row in prices}


@given(events())
def test_lines_come_to_the_cost_and_the_customers_own_to_the_charge(
    made,
):
    event, price, prices = made
    explanation = explain(event, price, prices)
    for with_cost, nano in ((True, event.cost_nano), (False, event.charged_nano)):
        shape = ExplainedEventShape.of_explanation(explanation, with_cost=with_cost)
        assert ceil(sum((Fraction(line.amount_usd) for line in shape.lines), Fraction(0)) * 10**9) == nano
        told = {shape.cost_usd, shape.price_id, shape.markup_percent}
        assert (told == {UNSET}) == (not with_cost)


@given(events())
def test_an_amount_that_is_not_made_from_counts_has_no_lines(
    made,
):
    event, price, prices = made
    held = replace(event, charged_nano=event.charged_nano + 1)
    for with_cost in (True, False):
        assert ExplainedEventShape.of_explanation(explain(held, price, prices), with_cost=with_cost).lines == []


@given(RATES, MARKUPS)
def test_a_price_with_a_markup_is_exact(rate_nano, markup_scaled):
    shown = marked_up_usd(rate_nano, markup_scaled)
    assert Fraction(shown) * 10**9 == Fraction(rate_nano) * (1 + Fraction(markup_scaled, 100 * FACTOR_SCALE))
    assert len(shown.partition(".")[2]) >= 2
