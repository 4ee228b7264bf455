"""What a model's name resolves to, and which price is in force."""

from collections.abc import Mapping
from datetime import UTC, date, datetime

import pytest

from billing.pricing import FACTOR_SCALE, PriceRow, PriceTable
from gateway.config.secret import Secret
from gateway.config.settings import ModelConfig, ProviderConfig
from gateway.dialects.base import Match
from gateway.dialects.body import StructureBounds
from gateway.dialects.openai.dialect import OpenAIDialect
from gateway.proxy.candidates import Candidate, Rates, Route
from gateway.proxy.routing import MAX_FOUND, Router
from gateway.proxy.target_health import HealthBoard
from gateway.upstream.health import Cooldown, TargetHealth
from tests.support.echo_dialect.dialect import EchoDialect

PROVIDERS = {
    "openai": ProviderConfig("openai", "openai", "http://openai/v1"),
    "other": ProviderConfig("other", "openai", "http://other/v1"),
    "off": ProviderConfig("off", "openai", "http://off/v1", off_reason="OFF_API_KEY is not set"),
}
MODELS = {
    "gpt": ModelConfig("gpt", "openai", "gpt"),
    "fast": ModelConfig("fast", "openai", "gpt", markup_scaled=7),
    "zippy": ModelConfig("zippy", "openai", "gpt"),
    "old": ModelConfig("old", "other", "vendor/old", max_output_tokens=9, vocabulary="cl100k_base"),
    "gone": ModelConfig("gone", "off", "gone"),
    "slashed/gpt": ModelConfig("slashed/gpt", "other", "gpt"),
}


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOW_S = at("2025-06-15T12:00:00")


def row(model: str, rate: int = 1, since: date = date(2024, 1, 1), provider: str = "openai") -> PriceRow:
    return PriceRow(provider, model, since, {"input": rate, "output": rate}, {}, max_output_tokens=100)


def router(*rows: PriceRow, models: Mapping[str, ModelConfig] = MODELS) -> Router:
    return Router(PROVIDERS, models, PriceTable(rows), HealthBoard(PROVIDERS.values()))


def found(made: Router, name: str, now_s: float = NOW_S) -> Candidate:
    """The first candidate, which is the only one of an entry without others."""
    route = made.find(name, now_s)
    assert route is not None
    assert route.entry == route.first.entry
    return route.first


@pytest.mark.parametrize(
    ("name", "entry", "provider", "model"),
    [
        ("gpt", "gpt", "openai", "gpt"),
        ("fast", "fast", "openai", "gpt"),
        ("openai/gpt", "gpt", "openai", "gpt"),  # of several entries that lead there, the one of the same name
        ("other/vendor/old", "old", "other", "vendor/old"),
        ("slashed/gpt", "slashed/gpt", "other", "gpt"),  # an entry goes before a provider
        ("other/gpt", "slashed/gpt", "other", "gpt"),
        ("openai/unlisted", "openai/unlisted", "openai", "unlisted"),
        ("openai/a/b", "openai/a/b", "openai", "a/b"),
    ],
)
def test_a_name_resolves_to_one_entry(name, entry, provider, model):
    route = found(router(), name)
    assert (route.entry, route.provider.name, route.model) == (entry, provider, model)


@pytest.mark.parametrize(
    ("entry_s", "provider_s", "found_s"), [(None, None, None), (None, 9, 9), (0, 9, 0), (3, None, 3)]
)
def test_a_route_carries_the_drain_of_its_entry_else_of_its_provider(entry_s, provider_s, found_s):
    provider = ProviderConfig("p", "openai", "http://p/v1", disconnect_drain_s=provider_s)
    models = {"m": ModelConfig("m", "p", "m", disconnect_drain_s=entry_s)}
    made = Router({"p": provider}, models, PriceTable(()), HealthBoard([provider]))
    assert found(made, "m").disconnect_drain_s == found_s


def test_a_route_takes_the_other_models_that_a_request_names():
    made = router(row("gpt"), row("dear", rate=9), row("vendor/old", provider="other"))
    route, entries, unpriced = made.with_others(found(made, "fast"), ("dear", "gpt", "none"), NOW_S)
    assert entries == ["openai/dear", "gpt", "openai/none"]
    assert unpriced == ["none"]
    assert {name: rates.input_rate for name, rates in route.others.items()} == {"dear": 9, "gpt": 1}
    assert found(made, "fast").others == {}  # the route itself stays as it is


def test_a_router_s_route_has_the_models_that_answer_and_no_price_without_theirs():
    models = {"auto": ModelConfig("auto", "openai", "router", answered_by=("gpt", "dear"))}
    route = found(router(row("router"), row("gpt"), row("dear", rate=9), models=models), "auto")
    assert {name: rates.input_rate for name, rates in route.answering.items()} == {"gpt": 1, "dear": 9}
    assert route.named("dear-2026") == "dear"
    unpriced = router(row("router"), row("gpt"), models=models)
    assert found(unpriced, "auto").rates is None


def test_a_name_that_asks_for_search_results_says_so_on_its_route():
    made = router(row("a:online"), row("gpt"))
    assert [found(made, name).online_searches for name in ("openai/a:online", "gpt", "openai/a")] == [5, 0, 0]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "nothing",
        "openai/",
        "/gpt",
        "OpenAI/gpt",
        "GPT",
        "gone",
        "off/gone",
        "off/x",
        "x/gpt",
        "openai/" + "x" * 200,
        "openai/a\0b",
        "openai/a\nb",
        "openai/\u202e",
        "openai/\ud83d",
    ],
)
def test_a_name_that_leads_nowhere(name):
    assert router(row("*")).find(name, NOW_S) is None


def test_a_route_carries_what_its_entry_says():
    route = found(router(), "old")
    assert (route.own_max_output, route.vocabulary, route.markup_scaled) == (9, "cl100k_base", 0)
    assert found(router(), "fast").markup_scaled == 7
    assert found(router(), "openai/gpt-4-32k").vocabulary == "cl100k_base"
    assert found(router(), "openai/gpt-5").vocabulary == "o200k_base"


def test_a_route_without_a_price_is_found_all_the_same():
    made = router(row("*", provider="other"))
    assert found(made, "gpt").rates is None
    rates = found(made, "old").rates
    assert rates is not None
    assert rates.row.model == "*"


def test_a_row_comes_into_force_at_midnight_and_no_request_changes_its_price():
    made = router(row("gpt", 1), row("gpt", 2, date(2025, 6, 16)))
    before = found(made, "gpt", at("2025-06-15T23:59:59.9"))
    after = found(made, "gpt", at("2025-06-16T00:00:00"))
    for route, rate in ((before, 1), (after, 2)):
        assert route.rates is not None
        assert route.rates.row.per_million["input"] == rate
    assert found(made, "gpt", at("2025-06-16T10:00:00")) is after


def test_a_price_that_begins_later_is_none_yet():
    made = router(row("gpt", since=date(2025, 6, 16)))
    assert found(made, "gpt", at("2025-06-15T23:59:59")).rates is None
    assert found(made, "gpt", at("2025-06-16T00:00:00")).rates is not None


def test_entries_are_those_whose_provider_is_on():
    assert [route.entry for route in router().entries(NOW_S)] == ["gpt", "fast", "zippy", "old", "slashed/gpt"]


def test_fallbacks_are_candidates_under_the_name_of_their_entry():
    """Those whose provider is on and that have a price, in their order; their own fallbacks are not followed."""
    models = {
        "first": ModelConfig("first", "openai", "gpt", ("gone", "old", "unpriced", "second")),
        "second": ModelConfig("second", "openai", "other-gpt", ("old",), markup_scaled=5),
        "old": MODELS["old"],
        "gone": MODELS["gone"],
        "unpriced": ModelConfig("unpriced", "openai", "unpriced"),
    }
    made = router(row("gpt"), row("other-gpt", 3), row("*", 2, provider="other"), models=models)
    route = made.find("first", NOW_S)
    assert route is not None
    assert [(each.entry, each.fallback, each.model, each.markup_scaled) for each in route.candidates] == [
        ("first", None, "gpt", 0),
        ("first", "old", "vendor/old", 0),
        ("first", "second", "other-gpt", 5),
    ]
    by_target = made.find("openai/gpt", NOW_S)
    assert by_target is not None
    assert by_target.candidates == route.candidates


def test_what_is_remembered_is_bounded():
    made = router(row("*"))
    for number in range(MAX_FOUND + 10):
        made.find(f"openai/{number}", NOW_S)
    assert len(made._found) <= MAX_FOUND


def test_rates_are_upper_bounds():
    rates = Rates.of(
        PriceRow(
            "p",
            "m",
            date(2024, 1, 1),
            {"input": 10, "cached_input": 1, "cache_write": 15, "output": 7, "reasoning": 9},
            {"request": 3},
            multipliers={"priority": FACTOR_SCALE + 1, "flex": 1},
        )
    )
    assert (rates.input_rate, rates.output_rate, rates.request_nano) == (16, 10, 4)
    assert rates.input_nano(1_000_000, 0) == 16 + 4
    assert rates.input_nano(1, 0) == 5
    assert rates.unit_nano(0) == 1
    assert Rates.of(row("m", 10**6)).unit_nano(50 * FACTOR_SCALE) == 2


def test_a_request_goes_to_candidates_that_serve_its_api():
    def candidate(name, **dialects):
        provider = ProviderConfig(name, "openai", "", Secret("sk-1"), dialects=dialects)
        health = (TargetHealth(lambda: 0.0, Cooldown()),)
        return Candidate("m", provider, f"{name}-model", 0, "o200k_base", None, health=health)

    one, other = candidate("one", echo="http://one/?k=1"), candidate("other", echo="http://b", openai="http://b/v1")
    route = Route("m", (one, other))
    assert (route.first, route.served) == (one, {"echo", "openai"})
    openai, echo = OpenAIDialect(), EchoDialect(StructureBounds())
    (found_,) = route.destinations(Match(openai, openai.endpoints[0]))
    (target,) = found_.targets
    assert (found_.candidate, target.url) == (other, "http://b/v1/chat/completions")
    assert target.lines == b"x-metergate-provider: other\r\nx-metergate-model: other-model\r\n"
    both = route.destinations(Match(echo, echo.endpoints[0]))
    assert [target.url for each in both for target in each.targets] == [
        "http://one/models/one-model:say?k=1",
        "http://b/models/other-model:say",
    ]
    assert len({each.kept_as for each in both}) == 2
    assert route.destinations(Match(echo, echo.endpoints[0])) is both
    with_id = Match(echo, echo.endpoints[0], {"id": "1"})
    assert route.destinations(with_id) == both
