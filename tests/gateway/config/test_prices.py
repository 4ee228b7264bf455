"""prices.yaml: rows as they are written, and what is refused with its line."""

from datetime import UTC, date, datetime

import pytest

from billing.money import parse_usd
from billing.pricing import FACTOR_SCALE, PriceRow, Tier, Variant
from gateway.config.settings import unpriced_models, warnings
from tests.gateway.config.support import PRICES, load, problems
from tests.support.tables import Tables

TABLES = Tables(__file__)

NOW_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_a_row_with_everything(tmp_path):
    text = """\
- provider: openai
  model: m
  effective_from: 2024-07-18
  per_million: {input: "2.50", cached_input: "1.25", output: "10"}
  per_unit: {image: "0.04", request: "0"}
  tiers:
    - {above_input_tokens: 200000, per_million: {input: "5"}}
    - {above_input_tokens: 400000, per_million: {}}
  multipliers: {batch: "0.5", priority: "1.7"}
  part_tokens: {image: 1445}
  tool_call_tokens: {web_search: 8192, "*": 0}
  max_output_tokens: 16384
  context_window: 128000
  hidden_reasoning: true
"""
    assert load(tmp_path, prices=text).prices.rows == (
        PriceRow(
            "openai",
            "m",
            date(2024, 7, 18),
            {"input": parse_usd("2.50"), "cached_input": parse_usd("1.25"), "output": parse_usd("10")},
            {"image": parse_usd("0.04"), "request": 0},
            (Tier(200_000, {"input": parse_usd("5")}), Tier(400_000, {})),
            {"batch": FACTOR_SCALE // 2, "priority": 17 * FACTOR_SCALE // 10},
            {"image": 1445},
            16384,
            128_000,
            True,
            tool_call_tokens={"web_search": 8192, "*": 0},
        ),
    )


def test_one_number_bounds_the_calls_of_all_tools_and_prices_nothing(tmp_path):
    text = '- {provider: openai, model: m, effective_from: 2024-07-18, per_million: {input: "1"}'
    (row,) = load(tmp_path, prices=f"{text}, tool_call_tokens: 4096}}\n").prices.rows
    (plain,) = load(tmp_path, prices=f"{text}}}\n").prices.rows
    assert (row.tool_call_tokens, plain.tool_call_tokens) == ({"*": 4096}, None)
    assert row.id == plain.id, "an operator may change it without a new price"


def test_a_row_with_variants_aliases_and_a_source(tmp_path):
    text = """\
- provider: openai
  model: m
  aliases: ["m-2025*", n]
  effective_from: 2024-07-18
  cost: reported
  source: "https://example.com/prices"
  per_million: {input: "2", video_input: "3", cached_audio_input: "1", image_output: "4"}
  per_unit: {hour: "0.111", page: "0.001", call.file_search: "0.0025", image.1024x1024.high: "0.167"}
  tiers: [{at_or_above: 200000, per_million: {input: "4"}}]
  variants:
    - service_tier: priority
      per_million: {input: "5"}
      tiers: [{above_input_tokens: 272000, per_million: {input: "9"}}]
    - {processing: batch, utc_hours: "16:30-00:30", per_unit: {page: "0.0005"}}
    - {region: us, factor: "1.1"}
"""
    rows = load(tmp_path, prices=text).prices.rows
    assert [row.model for row in rows] == ["m", "m-2025*", "n"]
    assert len({row.id for row in rows}) == 3
    row = rows[0]
    assert row.cost_reported
    assert row.source == "https://example.com/prices"
    assert row.tiers == (Tier(199_999, {"input": parse_usd("4")}),)
    assert row.per_unit == {
        **{"hour": parse_usd("0.111"), "page": parse_usd("0.001"), "call.file_search": parse_usd("0.0025")},
        "image.1024x1024.high": parse_usd("0.167"),
    }
    assert row.variants == (
        Variant(
            {"service_tier": "priority"},
            {"input": parse_usd("5")},
            tiers=(Tier(272_000, {"input": parse_usd("9")}),),
        ),
        Variant({"processing": "batch", "utc_hours": "16:30-00:30"}, {}, {"page": parse_usd("0.0005")}),
        Variant({"region": "us"}, factor=11 * FACTOR_SCALE // 10),
    )


@pytest.mark.parametrize("day", ["2024-07-18", '"2024-07-18"', "'2024-07-18'", '"${DAY:-2024-07-18}"'])
def test_a_day_with_or_without_quotes(tmp_path, day):
    text = f'- {{provider: local, model: m, effective_from: {day}, per_million: {{input: "1"}}}}\n'
    assert load(tmp_path, prices=text).prices.rows[0].effective_from == date(2024, 7, 18)


@TABLES.each("wrong_rows_are_refused")
def test_wrong_rows_are_refused(tmp_path, row, problem):
    text = f"\n- {{provider: local, model: m, effective_from: 2024-07-18, {row}}}\n"
    (found,) = problems(tmp_path, prices=text)
    assert found.startswith(f"prices.yaml:2: {problem}")


@pytest.mark.parametrize("day", ["2024-02-30", "yesterday", "20240718x", "5", "null"])
def test_wrong_days_are_refused(tmp_path, day):
    text = f'- {{provider: local, model: m, effective_from: {day}, per_million: {{input: "1"}}}}\n'
    (found,) = problems(tmp_path, prices=text)
    assert found.startswith("prices.yaml:1: effective_from: ")


def test_tiers_rise(tmp_path):
    tiers = "[{above_input_tokens: 5, per_million: {}}, {above_input_tokens: 5, per_million: {}}]"
    text = f'- {{provider: l, model: m, effective_from: 2024-07-18, per_million: {{input: "1"}}, tiers: {tiers}}}\n'
    assert problems(tmp_path, prices=text) == ["prices.yaml:1: tiers must rise by above_input_tokens"]


def test_a_row_that_stands_there_twice_names_the_other_line(tmp_path):
    row = '- {provider: local, model: m, effective_from: 2024-07-18, per_million: {input: "1"}}\n'
    assert problems(tmp_path, prices=row + "\n" + row) == [
        "prices.yaml:3: local/m from 2024-07-18 stands in line 1 already"
    ]


def test_a_route_without_a_price_is_a_warning(tmp_path):
    text = '- {provider: gone, model: m, effective_from: 2027-01-01, per_million: {input: "1"}}\n' + PRICES
    text += '- {provider: meter, model: bytes, effective_from: 2027-01-01, per_unit: {unit: "1"}}\n'  # of services
    settings = load(tmp_path, prices=text.replace("2024-07-18", "2027-01-01"))
    assert unpriced_models(settings.models, settings.prices, NOW_S) == ("fast",)
    assert warnings(settings, NOW_S) == (
        "model fast: no price for openai/gpt-4o-mini; its requests will be refused",
        "prices.yaml has prices of providers that metergate.yaml doesn't have: gone",
    )
    assert unpriced_models(settings.models, settings.prices, datetime(2027, 1, 1, tzinfo=UTC).timestamp()) == ()
