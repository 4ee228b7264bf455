"""The settings as a whole: the shipped files, which folder is read, and what is warned of."""

import shutil
import time
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from billing.money import parse_usd
from billing.pricing import round_up
from billing.usage import Usage
from gateway.config.defaults import Defaults
from gateway.config.settings import (
    FILES,
    SHIPPED_FOLDER,
    ConfigError,
    Settings,
    in_force,
    load_settings,
    unpriced_models,
    warnings,
)
from tests.gateway.config.support import MAIN, load, problems, write
from tests.support.tables import Tables

TABLES = Tables(__file__)

NOW_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
SHIPPED = {"METERGATE_CONFIG": str(SHIPPED_FOLDER)}


@cache
def shipped() -> Settings:
    return load_settings({})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_shipped_files_load_without_a_warning():
    settings = shipped()
    assert settings.folder == SHIPPED_FOLDER
    assert warnings(settings, time.time()) == ()
    assert unpriced_models(settings.models, settings.prices, NOW_S) == ()
    assert settings.defaults == Defaults()


def test_the_shipped_providers():
    providers = shipped().providers
    assert {name for name, provider in providers.items() if provider.enabled} == {"local"}
    assert providers["openai"].off_reason == "OPENAI_API_KEY is not set"
    further = {"deepseek", "openrouter", "mistral", "groq", "xai", "cohere", "voyage", "jina"}
    further |= {"moonshot", "perplexity", "together", "fireworks"}
    keys = ["OPENAI", "ANTHROPIC", "GEMINI", *map(str.upper, further)]
    on = load_settings({f"{key}_API_KEY": "key" for key in keys}).providers
    unserved = {name for name, provider in on.items() if not provider.enabled}
    assert not unserved
    assert set(on) == {"local", "openai", "anthropic", "gemini"} | further
    assert all(on[name].base_url.startswith("https://") for name in further)


def test_the_shipped_models():
    models = shipped().models
    assert (models["demo"].provider, models["demo"].model) == ("local", "demo")
    assert (models["gpt-4o-mini"].provider, models["gpt-4o-mini"].model) == ("openai", "gpt-4o-mini")
    assert (models["claude-haiku"].provider, models["claude-haiku"].model) == ("anthropic", "claude-haiku-4-5")
    assert (models["fast"].model, models["fast"].fallbacks) == ("gpt-4o-mini", ())


@TABLES.each("the_shipped_prices")
def test_the_shipped_prices(provider, model, input_usd, output_usd):
    row = shipped().prices.find(provider, model, NOW_S)
    assert round_up(row.cost_scaled(Usage(input_tokens=1_000_000))) == parse_usd(input_usd)
    if output_usd is not None:
        assert round_up(row.cost_scaled(Usage(output_tokens=1_000_000))) == parse_usd(output_usd)
        assert row.max_output_tokens
    assert row.context_window


def test_the_shipped_cache_prices():
    row = shipped().prices.find("anthropic", "claude-opus-4", NOW_S)
    assert row is not None
    classes = ("cached_input", "cache_write", "cache_write_1h")
    assert [row.rate(name, 0) for name in classes] == [parse_usd(usd) for usd in ("1.50", "18.75", "30.00")]


def test_the_shipped_plans():
    prices = {"STRIPE_PRICE_STARTER": "s", "STRIPE_PRICE_PROFESSIONAL": "p", "STRIPE_PRICE_ENTERPRISE": "e"}
    plans = load_settings(prices).plans
    assert {name: plan.price_nano // 10**9 for name, plan in plans.items()} == {
        "free": 0,
        "starter": 99,
        "professional": 299,
        "enterprise": 999,
    }
    assert [plan.stripe_price for plan in plans.values()] == [None, "s", "p", "e"]
    assert [plan.upgrade_to for plan in plans.values()] == ["starter", "professional", "enterprise", None]
    assert all(plan.quotas for plan in plans.values())


def test_the_folder_that_is_named_comes_first(tmp_path):
    write(Path("config"))
    named = write(tmp_path / "named")
    assert load_settings(named).folder == tmp_path / "named"
    assert load_settings({}).folder == tmp_path / "here" / "config"


def test_a_folder_of_that_name_without_our_file_is_not_ours():
    Path("config").mkdir()
    (Path("config") / "other.yaml").write_text("a: 1")
    assert load_settings({}).folder == SHIPPED_FOLDER


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_of_our_files_is_ours_and_lacks_the_others(name):
    """Else an edited price table would be passed over without a word."""
    Path("config").mkdir()
    shutil.copy(SHIPPED_FOLDER / name, Path("config"))
    with pytest.raises(ConfigError) as refused:
        load_settings({})
    lacking = [problem.where for problem in refused.value.problems if problem.message == "no such file"]
    assert lacking == [f"config/{other}" for other in FILES if other != name]


def test_which_files_are_in_force_is_said(tmp_path):
    assert "as shipped" in in_force(load_settings({}))
    named = write(tmp_path / "named")
    assert f"{tmp_path / 'named'} (METERGATE_CONFIG names" in in_force(load_settings(named))
    write(Path("config"))
    assert f"{Path('config').absolute()} (found where" in in_force(load_settings({}))


def test_the_checkout_s_folder_is_the_shipped_one():
    """There is no second copy that could differ."""
    assert (Path(__file__).parents[3] / "config").resolve() == SHIPPED_FOLDER.resolve()


def test_places_are_named_from_where_the_operator_stands():
    write(Path("config"), prices="- {provider: p, model: m, effective_from: 2024-01-01, per_million: {input: 0.15}}\n")
    with pytest.raises(ConfigError) as refused:
        load_settings({})
    assert str(refused.value) == (
        'config/prices.yaml:1: per_million.input: expected a decimal string such as "0.15", got 0.15; put it in quotes'
    )


def test_settings_are_frozen(tmp_path):
    settings = load(tmp_path / "c")
    with pytest.raises(FrozenInstanceError):
        settings.image = "other"
    assert not hasattr(settings, "__dict__")


def test_no_secret_shows_in_the_settings(tmp_path):
    environ = {"OPENAI_API_KEY": "hidden", "ADMIN_API_KEY": "hidden" * 4, "DATABASE_URL": "postgresql://u:hidden@h/d"}
    settings = load(tmp_path / "c", environ)
    assert settings.providers["openai"].enabled
    assert "hidden" not in repr(settings)


def test_the_mode_says_where_to_listen(tmp_path):
    assert load(tmp_path / "c", mode="up").listen_addr == "127.0.0.1:8080"
    assert load(tmp_path / "c").listen_addr == "0.0.0.0:8080"


def test_a_plain_edge_is_reached_by_this_machine_or_by_a_proxy_alone(tmp_path):
    main = MAIN + "defaults: {edge: plain}\n"
    (problem,) = problems(tmp_path / "c", main=main)
    assert "TRUSTED_PROXIES" in problem
    assert "defaults.edge" in problem
    for environ in ({"LISTEN_ADDR": "127.0.0.1:80"}, {"LISTEN_ADDR": "[::1]:80"}, {"TRUSTED_PROXIES": "10.0.0.0/8"}):
        assert load(tmp_path / "c", environ, main=main).defaults.edge.edge == "plain"
    assert load(tmp_path / "c", main=main, mode="up").defaults.edge.edge == "plain"
    assert load(tmp_path / "c", main=main, mode="command").defaults.edge.edge == "plain"
