"""Rates: which sheet holds for a request; tiers, variants by tier, processing, speed, region and hours of the day."""

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import (
    COST_SCALE,
    FACTOR_SCALE,
    PriceError,
    PriceRow,
    Tier,
    Variant,
    canonical_json,
    from_canonical_json,
    parse_hours,
    round_up,
)
from billing.usage import ModelUsage, Usage, UsageError, merge_snapshot, total
from tests.billing.usages import usage_lines, usages

USD = 10**9
DAY = date(2026, 1, 1)
PRIORITY = Variant(
    {"service_tier": "priority"}, {"input": 5 * USD, "output": 20 * USD}, tiers=(Tier(272_000, {"input": 9 * USD}),)
)
FLEX = Variant({"service_tier": "flex"}, {"input": USD})
BATCH = Variant({"processing": "batch"}, {"input": USD, "output": 5 * USD})
US = Variant({"region": "us"}, factor=11 * FACTOR_SCALE // 10)
NIGHT = Variant({"utc_hours": "16:30-00:30"}, {"input": USD // 2})


def row(*variants: Variant, **more: object) -> PriceRow:
    sheet = {"input": 2 * USD, "cached_input": USD // 5, "output": 10 * USD}
    more = {"tiers": (Tier(272_000, {"input": 4 * USD, "output": 15 * USD}),), **more}
    return PriceRow("openai", "m", DAY, sheet, {"search": USD // 100}, variants=variants, **more)


def usd(price: PriceRow, usage: Usage, variant: str | None) -> Fraction:
    return Fraction(price.cost_scaled(usage, variant), COST_SCALE * USD)


def test_a_variant_replaces_the_classes_that_it_names_with_their_tiers():
    price = row(PRIORITY, FLEX)
    small, large = Usage(input_tokens=100_000, output_tokens=1000), Usage(input_tokens=300_000, output_tokens=1000)
    assert usd(price, small, None) == Fraction("0.21")
    assert usd(price, large, None) == Fraction("1.215")
    assert usd(price, small, price.variant("priority")) == Fraction("0.52")
    assert usd(price, large, price.variant("priority")) == Fraction("2.72")  # its own tier for input; output has none
    assert usd(price, large, price.variant("flex")) == Fraction("0.315")  # output keeps the standard tier
    cached = Usage(input_tokens=100_000, cached_input_tokens=100_000)
    assert usd(price, cached, price.variant("priority")) == Fraction("0.02")  # a class that is missing: standard


def test_variants_apply_together_and_the_first_that_names_a_class_decides():
    price = row(BATCH, NIGHT, US)
    name = price.variant(processing="batch", region="us", minute=parse_hours("16:30-17:00")[0])
    assert name == "processing=batch+utc_hours=16:30-00:30+region=us"
    assert usd(price, Usage(input_tokens=1_000_000 // 10, searches=1), name) == Fraction("0.11") + Fraction("0.01")


@pytest.mark.parametrize(
    ("answered", "name"),
    [
        (None, None),
        ("default", None),
        ("standard", None),
        ("ON_DEMAND", None),
        ("priority", "service_tier=priority"),
        ("fast", "service_tier=priority"),
        ("ON_DEMAND_PRIORITY", "service_tier=priority"),
        ("flex", "service_tier=flex"),
        ("batch", "processing=batch"),
        ("ultra", "service_tier=priority"),
    ],
)
def test_the_tier_that_the_answer_names_decides_and_an_unknown_one_is_the_dearest(answered, name):
    assert row(FLEX, PRIORITY, BATCH).variant(answered) == name


def test_an_unknown_tier_of_a_model_with_cheaper_ones_only_is_standard():
    assert row(FLEX).variant("ultra") is None
    assert row().variant("priority") is None


def test_the_short_form_multiplies_the_whole_charge():
    price = row(US, multipliers={"flex": FACTOR_SCALE // 2, "batch": FACTOR_SCALE // 2})
    assert price.variant("flex", region="us") == "flex+region=us"
    assert usd(price, Usage(input_tokens=1000, searches=1), "flex+region=us") == Fraction("0.0061")
    assert price.variant(None, "batch") == price.variant("batch") == "batch"


@pytest.mark.parametrize(("minute", "applies"), [(0, True), (29, True), (30, False), (989, False), (990, True)])
def test_hours_of_the_utc_day(minute, applies):
    price = row(NIGHT)
    assert (price.variant(minute=minute) is not None) is applies
    assert price.changes_at == (30, 990)


def test_a_speed_and_a_region_that_are_not_known_cost_the_dearest_known():
    fast, slow = Variant({"speed": "fast"}, {"output": 60 * USD}), Variant({"speed": "slow"}, {"output": USD})
    price = row(fast, slow, US)
    assert price.variant(speed="warp") == "speed=fast"
    assert price.variant(region="mars") == "region=us"
    assert price.variant(speed="standard", region="global") is None
    assert row(slow).variant(speed="warp") is None  # the standard price is dearer
    assert row(PRIORITY).variant(speed="warp", region="mars") is None
    assert price.unknown("priority", "warp", "mars") == [
        ("service_tier", "priority"),
        ("speed", "warp"),
        ("region", "mars"),
    ]
    assert row(PRIORITY, fast, US).unknown("FAST", "fast", "us") == []
    assert row().unknown("default", "standard", None) == row().unknown(None, None, "global") == []


def test_conditions_that_answers_name_are_kept_within_a_bound():
    price = row(FLEX)
    for number in range(5000):
        price.variant(f"tier {number}", region=str(number))
    assert len(price._known) <= 256


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Variant({}, {"input": 1}), "says when it applies"),
        (lambda: Variant({"weather": "rain"}), "says when it applies"),
        (lambda: Variant({"utc_hours": "8-9"}), "utc_hours"),
        (lambda: Variant({"utc_hours": "08:00-08:00"}), "different minutes"),
        (lambda: Variant({"speed": "fast fast"}), "speed of a variant"),
        (lambda: Variant({"speed": "fast"}, factor=2 * FACTOR_SCALE), "by region alone"),
        (lambda: Variant({"speed": "fast"}, {}, tiers=(Tier(5, {"input": 1}),)), "per_million has"),
        (lambda: row(FLEX, FLEX), "two variants"),
        (lambda: row(FLEX, multipliers={"flex": 1}), "multipliers and in variants"),
        (lambda: row(Variant({"region": "us"}, factor=1)), "more than 9 decimals"),
        (lambda: PriceRow("p", "m", DAY, {}, {"second": 1, "hour": 1}), "by the second or by the hour"),
        (lambda: PriceRow("p", "a*b", DAY, {"input": 1}, {}), "prefix"),
    ],
)
def test_impossible_variants_are_refused(make, message):
    with pytest.raises(PriceError, match=message):
        make()


def test_seconds_are_priced_by_the_millisecond():
    second = PriceRow("openai", "whisper-1", DAY, {}, {"second": USD // 10_000})
    assert usd(second, Usage(milliseconds=27_300), None) == Fraction("0.00273")
    hour = PriceRow("groq", "whisper", DAY, {}, {"hour": 111 * USD // 1000})
    assert usd(hour, Usage(milliseconds=27_301), None) == Fraction("0.111") * 27_301 / 3_600_000
    assert [(line.price_class, line.quantity) for line in hour.lines(Usage(milliseconds=5))] == [("hour", 5)]


def test_named_units_take_the_price_of_the_wider_kind():
    price = PriceRow("openai", "m", DAY, {}, {"image": USD, "image.large": 2 * USD, "call.file_search": USD // 400})
    usage = Usage(images=1, named={"image.large.high": 1, "image.small": 1, "call.file_search": 4, "call.other": 3})
    assert usd(price, usage, None) == 1 + 2 + 1 + Fraction("0.01")
    assert price.dearest_unit("image") == 2 * USD


def test_a_reported_cost_is_the_charge_where_the_row_says_so():
    usage = Usage(input_tokens=1000, reported_cost_usd="0.0000000001234")
    told = row(cost_reported=True)
    assert usd(told, usage, None) == Fraction("0.0000000001234")
    assert round_up(told.cost_scaled(usage)) == 1
    assert [line.price_class for line in told.lines(usage)] == ["reported_cost"]
    assert usd(row(), usage, None) == usd(told, Usage(input_tokens=1000), None) == Fraction("0.002")


@given(usages(), st.sampled_from([None, "priority", "flex", "batch"]), st.sampled_from([None, "us", "eu"]))
def test_lines_add_up_and_the_dearest_rates_bound_every_variant(usage, tier, region):
    price = row(PRIORITY, FLEX, BATCH, US, NIGHT)
    name = price.variant(tier, region=region, minute=10)
    scaled = price.cost_scaled(usage, name)
    assert scaled == sum(line.amount_scaled for line in price.lines(usage, name))
    inputs = usage.input_tokens * price.dearest_nano(("input", "cached_input"))
    outputs = usage.output_tokens * price.dearest_nano(("output",))
    assert Fraction(scaled, COST_SCALE) <= Fraction(inputs + outputs, 10**6) + usage.searches * price.dearest_unit(
        "search"
    )


def test_a_region_s_factor_is_in_the_dearest_rate_once():
    plain = row().dearest_nano(("input",))
    assert row(US).dearest_nano(("input",)) * 10 == plain * 11
    priority = row(PRIORITY).dearest_nano(("input",))
    assert row(PRIORITY, US).dearest_nano(("input",)) * 10 == priority * 11


def test_rows_with_variants_are_stored_and_read_back():
    price = row(PRIORITY, US, cost_reported=True)
    again = from_canonical_json(canonical_json(price))
    assert again == price
    assert again.id == price.id != row(PRIORITY).id


@given(st.lists(usages(most=1000), min_size=1, max_size=4))
def test_an_answers_lines_add_up_to_its_totals(parts):
    others = tuple(ModelUsage(f"m{place}", usage) for place, usage in enumerate(parts[1:]))
    lines = usage_lines("p", "m", parts[0], others)
    together = total(parts)
    sums = {}
    for line in lines:
        sums[line.price_class] = sums.get(line.price_class, 0) + line.quantity
    assert sums == together.by_class()
    assert together.input_tokens == sum(usage.input_tokens for usage in parts)


@given(st.lists(usages(most=1000), min_size=1, max_size=6))
def test_rounding_never_loses_a_nano_in_total(parts):
    price = row(tiers=())
    exact = sum(Fraction(price.cost_scaled(usage), COST_SCALE) for usage in parts)
    charged = sum(round_up(price.cost_scaled(usage)) for usage in parts)
    assert exact <= charged < exact + len(parts)
    assert round_up(sum(price.cost_scaled(usage) for usage in parts)) <= charged


def test_a_later_snapshot_replaces_field_by_field():
    first = {"input_tokens": 900, "cache": {"read": 5, "written": 7}, "output_tokens": 1, "tier": "standard"}
    later = {"input_tokens": 400, "cache": {"read": 0}, "output_tokens": None, "lines": [1]}
    assert merge_snapshot(first, later) == {
        "input_tokens": 400,
        "cache": {"read": 0, "written": 7},
        "output_tokens": 1,
        "tier": "standard",
        "lines": [1],
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"named": {"call": 1}},
        {"named": {"call.x": 0}},
        {"named": {"call.x": True}},
        {"named": {f"call.x{number}": 1 for number in range(65)}},
        {"reported_cost_usd": "1e-5"},
        {"reported_cost_usd": "-1"},
        {"output_tokens": 3, "image_output_tokens": 2, "video_output_tokens": 2},
        {"input_tokens": 3, "cached_audio_input_tokens": 4},
    ],
)
def test_impossible_usages_are_refused(wrong):
    with pytest.raises(UsageError):
        Usage(**wrong)
