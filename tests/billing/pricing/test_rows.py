"""Prices: exact sums, rounded up once; classes, tiers, multipliers, bounds; rows that are known by what they say."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import parse_usd
from billing.pricing import (
    COST_SCALE,
    FACTOR_SCALE,
    INPUT_CLASSES,
    MILLION,
    MULTIPLIERS,
    OUTPUT_CLASSES,
    PARENT,
    PART_KINDS,
    TOKEN_CLASSES,
    UNIT_CLASSES,
    PriceError,
    PriceRow,
    PriceTable,
    Tier,
    canonical_json,
    from_canonical_json,
    parse_factor,
    round_up,
)
from billing.usage import COUNT_NAMES, Usage
from tests.billing.usages import usages

pytestmark = pytest.mark.slow

DAY = date(2024, 7, 18)
rates = st.integers(0, 2_000 * 10**9)
factors = st.integers(1, 10 * FACTOR_SCALE)


def sheets(classes: tuple[str, ...], least: int = 0) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(classes), rates, min_size=least)


def without_both(units: dict[str, int]) -> dict[str, int]:
    """The same prices, without the second and the unit where there is a price by the hour, or by the million."""
    coarse = {"second": "hour", "unit": "million"}
    return {name: rate for name, rate in units.items() if coarse.get(name) not in units}


@st.composite
def rows(draw: st.DrawFn) -> PriceRow:
    """Rows with any classes, up to three tiers, and multipliers."""
    above = sorted(draw(st.sets(st.integers(1, 4_000_000), max_size=3)))
    return PriceRow(
        provider=draw(st.sampled_from(["openai", "anthropic"])),
        model=draw(st.sampled_from(["one", "two", "*"])),
        effective_from=draw(st.dates()),
        per_million=draw(sheets(TOKEN_CLASSES, least=1)),
        per_unit=draw(sheets(UNIT_CLASSES).map(without_both)),
        tiers=tuple(Tier(tokens, draw(sheets(TOKEN_CLASSES))) for tokens in above),
        multipliers=draw(st.none() | st.dictionaries(st.sampled_from(MULTIPLIERS), factors)),
        part_tokens=draw(st.none() | st.dictionaries(st.sampled_from(PART_KINDS), st.integers(1, 10**6))),
        max_output_tokens=draw(st.none() | st.integers(1, 10**6)),
        context_window=draw(st.none() | st.integers(1, 10**7)),
    )


names = st.none() | st.sampled_from(MULTIPLIERS)


def exact_nano(row: PriceRow, usage: Usage, multiplier: str | None) -> Fraction:
    """The cost in nano-USD by rational arithmetic, written independently of the code under test."""
    sheet = dict(row.per_million)
    for tier in row.tiers:
        if usage.input_tokens > tier.above_input_tokens:
            sheet.update(tier.per_million)
    total = Fraction(0)
    for name, quantity in usage.by_class().items():
        if name in UNIT_CLASSES:
            if name == "second":
                total += Fraction(quantity, 1000) * row.per_unit.get("second", 0)
                total += Fraction(quantity, 3_600_000) * row.per_unit.get("hour", 0)
            else:
                total += quantity * row.per_unit.get(name, 0)
            continue
        known: str | None = name
        while known is not None and known not in sheet:
            known = PARENT.get(known)
        total += Fraction(quantity * (sheet[known] if known else 0), 10**6)
    return total * Fraction((row.multipliers or {}).get(multiplier or "", 10**9), 10**9)


@given(rows(), usages(), names, st.integers(0, 1000 * FACTOR_SCALE))
def test_the_cost_is_exact_and_rounded_up_once(row, usage, multiplier, markup_scaled):
    """A charge is never below the cost, and less than one nano above; the lines are the cost; and the dearest rate
    bounds every token."""
    exact = exact_nano(row, usage, multiplier)
    assert Fraction(row.cost_scaled(usage, multiplier), COST_SCALE) == exact
    marked_up = exact * (1 + Fraction(markup_scaled, 100 * FACTOR_SCALE))
    charged_nano = round_up(row.cost_scaled(usage, multiplier), markup_scaled)
    assert marked_up <= charged_nano < marked_up + 1
    check_lines(row, usage, multiplier)
    tokens = replace(row, per_unit={})
    dearest = (tokens.dearest_nano(INPUT_CLASSES), tokens.dearest_nano(OUTPUT_CLASSES))
    bound = usage.input_tokens * dearest[0] + usage.output_tokens * dearest[1]
    assert Fraction(bound, MILLION) >= exact_nano(tokens, usage, multiplier)


def check_lines(row: PriceRow, usage: Usage, multiplier: str | None) -> None:
    """The lines add up to the cost, and each is its quantity at its rate."""
    lines = row.lines(usage, multiplier)
    assert sum(line.amount_scaled for line in lines) == row.cost_scaled(usage, multiplier)
    factor = row.factor(multiplier)
    scales = {"second": Fraction(MILLION, 1000), "hour": Fraction(MILLION, 3_600_000)}
    for line in lines:
        assert line.quantity == usage.by_class()["second" if line.price_class == "hour" else line.price_class]
        scale = 1 if line.per_million else scales.get(line.price_class, MILLION)
        exact = Fraction(line.quantity * line.rate_nano * factor * scale)
        assert Fraction(line.amount_scaled, COST_SCALE) == exact / (MILLION * FACTOR_SCALE)


@pytest.mark.parametrize(
    ("per_unit", "thousandths", "nano"),
    [
        ({"unit": 100_000}, 1_500, 150_000),
        ({"unit": 1}, 1, 1),
        ({"million": 90_000}, 1_073_741_824_000, 96_636_765),
        ({"million": 90_000}, 2**53 - 1, 810_647_932_927),
        ({"unit": 100_000, "request": 7}, 1_000, 100_007),
        ({"unit": 100_000}, 0, 0),
    ],
)
def test_a_meter_is_priced_by_thousandths(per_unit, thousandths, nano):
    row = PriceRow("meter", "bytes", date(2026, 1, 1), {}, per_unit)
    usage = Usage(unit_thousandths=thousandths)
    assert round_up(row.cost_scaled(usage)) == nano
    assert sum(line.amount_scaled for line in row.lines(usage)) == row.cost_scaled(usage)


@given(rows(), st.lists(usages(most=100_000), max_size=4), names)
def test_costs_of_requests_add_up_before_rounding(row, requests, multiplier):
    untiered = replace(row, tiers=())
    together = Usage(**{name: sum(getattr(usage, name) for usage in requests) for name in COUNT_NAMES})
    parts_scaled = [untiered.cost_scaled(usage, multiplier) for usage in requests]
    assert untiered.cost_scaled(together, multiplier) == sum(parts_scaled)
    assert round_up(sum(parts_scaled)) <= sum(map(round_up, parts_scaled))


@given(rows(), usages(), names, st.sampled_from((*TOKEN_CLASSES, *UNIT_CLASSES)), st.integers(1, 10**6))
def test_more_of_any_class_never_costs_less(row, usage, multiplier, name, more):
    row = replace(row, tiers=())  # a tier may be cheaper, by its row's own word
    assert row.cost_scaled(raised(usage, name, more), multiplier) >= row.cost_scaled(usage, multiplier)


def raised(usage: Usage, name: str, more: int) -> Usage:
    """The same usage with more of one class, and of the total that includes it."""
    units = {"request": "requests", "image": "images", "second": "milliseconds", "hour": "milliseconds"}
    counted = units | {"character": "characters", "search": "searches", "page": "pages"}
    if name in ("unit", "million"):
        return msgspec.structs.replace(usage, unit_thousandths=(usage.unit_thousandths or 0) + more)
    if name in counted:
        return msgspec.structs.replace(usage, **{counted[name]: getattr(usage, counted[name]) + more})
    total = "input_tokens" if name in INPUT_CLASSES else "output_tokens"
    changes = {total: getattr(usage, total) + more}
    if name not in ("input", "output"):
        changes[f"{name}_tokens"] = getattr(usage, f"{name}_tokens") + more
    return msgspec.structs.replace(usage, **changes)


def plain(per_million: Mapping[str, int], **more: object) -> PriceRow:
    return PriceRow("openai", "m", DAY, per_million, {}, **more)


def test_a_tier_begins_above_its_boundary():
    tiers = (Tier(200_000, {"input": 5_000}), Tier(300_000, {"input": 7_000, "output": 9_000}))
    row = plain({"input": 2_000, "output": 3_000}, tiers=tiers)
    at = [(row.rate("input", tokens), row.rate("output", tokens)) for tokens in (0, 200_000, 200_001, 300_000, 300_001)]
    assert at == [(2_000, 3_000), (2_000, 3_000), (5_000, 3_000), (5_000, 3_000), (7_000, 9_000)]
    assert Fraction(row.cost_scaled(Usage(input_tokens=200_001)), COST_SCALE) == Fraction(200_001 * 5_000, MILLION)
    assert row.dearest_nano(("input",)) == 7_000


@pytest.mark.parametrize(("name", "parent"), PARENT.items())
def test_a_class_without_a_price_takes_its_parents(name, parent):
    assert plain({parent: 7}).rate(name, 0) == 7
    assert plain({parent: 7, name: 3}).rate(name, 0) == 3
    assert plain({parent: 7, name: 0}).rate(name, 0) == 0  # a price of zero is a price


def test_a_class_falls_to_its_grandparent():
    assert plain({"input": 7}).rate("cache_write_1h", 0) == 7


def test_a_shipped_price_by_hand():
    row = plain({"input": parse_usd("0.15"), "cached_input": parse_usd("0.075"), "output": parse_usd("0.60")})
    usage = Usage(input_tokens=1000, cached_input_tokens=600, output_tokens=201, reasoning_tokens=1)
    # 400 x 0.15 + 600 x 0.075 + 201 x 0.60, per million: 0.000225600 USD
    assert round_up(row.cost_scaled(usage)) == 225_600
    assert round_up(row.cost_scaled(usage), parse_factor("20")) == 270_720


def test_one_token_is_rounded_up():
    row = plain({"input": parse_usd("0.0001")})
    assert round_up(row.cost_scaled(Usage(input_tokens=1))) == 1
    assert round_up(row.cost_scaled(Usage(input_tokens=20_000))) == 2_000
    assert round_up(0) == 0


def test_multipliers_apply_by_name():
    row = plain({"input": 10}, multipliers={"batch": FACTOR_SCALE // 2, "priority": 17 * FACTOR_SCALE // 10})
    assert [row.factor(name) for name in (None, "batch", "flex")] == [FACTOR_SCALE, FACTOR_SCALE // 2, FACTOR_SCALE]
    assert row.dearest_nano(("input",)) == 17
    assert plain({"input": 10}, multipliers={"batch": 1}).dearest_nano(("input",)) == 10  # never below the plain price


@given(rows(), rows())
def test_rows_have_equal_ids_when_they_say_the_same(one, other):
    """And what they say as JSON is a row again."""
    assert (one.id == other.id) == (one == other)
    again = from_canonical_json(canonical_json(one))
    assert (again, again.id) == (one, one.id)
    assert canonical_json(again) == canonical_json(one)


def test_ids_do_not_depend_on_spelling_or_process():
    row = plain({"input": 1, "output": 2})
    assert row.id == plain({"output": 2, "input": 1}).id == plain({"input": 1, "output": 2}, multipliers={}).id
    assert row.id == "price_b4240e07784779d0ca28cf02"  # debits name it: it must not change


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "other"},
        {"model": "other"},
        {"effective_from": date(2024, 7, 19)},
        {"per_million": {"input": 2}},
        {"per_million": {"output": 1}},
        {"per_unit": {"image": 1}},
        {"tiers": (Tier(5, {}),)},
        {"multipliers": {"batch": 1}},
        {"part_tokens": {"image": 1}},
        {"max_output_tokens": 1},
        {"context_window": 1},
    ],
)
def test_every_field_counts_for_the_id(changes):
    row = plain({"input": 1})
    assert replace(row, **changes).id != row.id


def test_hidden_reasoning_prices_nothing_and_changes_no_id():
    row = plain({"input": 1})
    hidden = replace(row, hidden_reasoning=True)
    assert (row.hidden_reasoning, hidden.hidden_reasoning) == (False, True)
    assert hidden.id == row.id  # rows that the ledger has keep their ids when it is added to a file
    assert from_canonical_json(canonical_json(hidden)) == row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"per_million": {}}, "needs a price"),
        ({"per_million": {"inputs": 1}}, "unknown price class 'inputs'"),
        ({"per_million": {"input": -1}}, "must not be below zero"),
        ({"per_unit": {"input": 1}}, "unknown price class 'input'"),
        ({"provider": ""}, "names a provider"),
        ({"model": ""}, "names a provider and a model"),
        ({"tiers": (Tier(9, {}), Tier(5, {}))}, "rise"),
        ({"tiers": (Tier(5, {}), Tier(5, {}))}, "rise"),
        ({"multipliers": {"cheap": 1}}, "unknown name 'cheap'"),
        ({"multipliers": {"batch": 0}}, "above zero"),
        ({"part_tokens": {"video": 1}}, "unknown name 'video'"),
        ({"max_output_tokens": 0}, "max_output_tokens must be above zero"),
        ({"context_window": -1}, "context_window must be above zero"),
    ],
)
def test_impossible_rows_are_refused(changes, message):
    with pytest.raises(PriceError, match=message):
        replace(plain({"input": 1}), **changes)


def test_impossible_tiers_are_refused():
    with pytest.raises(PriceError, match="above_input_tokens"):
        Tier(0, {})
    with pytest.raises(PriceError, match="unknown price class"):
        Tier(1, {"image": 1})


def test_factors_are_decimal_strings():
    assert parse_factor("0.5") == FACTOR_SCALE // 2
    for factor in (0.5, "-1", "1e3", "0.0000000001", None):
        with pytest.raises(PriceError):
            parse_factor(factor)


def at_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def test_the_row_in_force_is_the_latest_that_has_begun():
    old, new = plain({"input": 1}), replace(plain({"input": 2}), effective_from=date(2025, 1, 1))
    any_model = PriceRow("openai", "*", DAY, {"input": 9}, {})
    table = PriceTable([new, any_model, old])
    begins_s = at_s(new.effective_from)
    assert table.find("openai", "m", begins_s - 1) is old
    assert table.find("openai", "m", begins_s) is new
    assert table.find("openai", "m", at_s(DAY) - 1) is None
    assert table.find("openai", "other", begins_s) is any_model
    assert table.find("anthropic", "m", begins_s) is None


def test_the_default_row_serves_until_the_models_own_begins():
    own, any_model = plain({"input": 1}), PriceRow("openai", "*", date(2020, 1, 1), {"input": 9}, {})
    table = PriceTable([own, any_model])
    assert table.find("openai", "m", at_s(DAY) - 1) is any_model
    assert table.find("openai", "m", at_s(DAY)) is own


def test_two_rows_of_one_day_are_refused():
    with pytest.raises(PriceError, match="two rows for openai/m from 2024-07-18"):
        PriceTable([plain({"input": 1}), plain({"input": 2})])
