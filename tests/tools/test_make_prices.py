"""The shipped table is the one that `make prices` makes, and holds what it promises."""

from datetime import UTC, datetime
from functools import cache

import pytest

from gateway.config.settings import load_settings
from gateway.proxy.routing import Router
from gateway.proxy.target_health import HealthBoard
from tests.support.oracle import table
from tools.make_prices import TARGET, make

NOW_S = datetime(2026, 11, 23, tzinfo=UTC).timestamp()


def test_the_shipped_table_is_what_is_made():
    made = make()
    assert made == make()
    assert made == TARGET.read_text("utf-8")


@cache
def shipped_router() -> Router:
    keys = ("OPENAI", "DEEPSEEK", "MISTRAL", "GROQ", "XAI", "COHERE", "VOYAGE")
    settings = load_settings({f"{key}_API_KEY": "key" for key in keys})
    return Router(settings.providers, settings.models, settings.prices, HealthBoard(settings.providers.values()))


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("gpt-4o", "openai"),
        ("gpt-4o-2024-08-06", "openai"),
        ("gpt-5.6-sol", "openai"),
        ("o3", "openai"),
        ("text-embedding-3-large", "openai"),
        ("deepseek-v4-pro", "deepseek"),
        ("mistral-large-latest", "mistral"),
        ("grok-4.20-reasoning", "xai"),
        ("command-a-03-2025", "cohere"),
        ("voyage-3.5", "voyage"),
        ("llama-3.3-70b-versatile", "groq"),
    ],
)
def test_a_client_names_any_priced_model(name: str, provider: str) -> None:
    router = shipped_router()
    route = router.find(name, NOW_S)
    assert (route.entry, route.first.provider.name, route.first.model) == (name, provider, name)
    assert route.first.rates is not None
    assert router.find(f"{provider}/{name}", NOW_S) == route  # the same entry, however it is asked for
    assert router.find("gpt-of-nobody", NOW_S) is None
    assert router.find("gpt-*", NOW_S) is None
    listed = {one.entry for one in router.entries(NOW_S)}
    assert name in listed or name == "gpt-4o-2024-08-06"
    assert not any(entry.endswith("*") for entry in listed)


def test_limits_bound_what_has_output():
    bounded = [row for row in table().rows if row.max_output_tokens or row.context_window]
    assert len(bounded) > 0.8 * len(table().rows)
