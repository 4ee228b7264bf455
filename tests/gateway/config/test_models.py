"""Providers and models: which are on, what each kind needs, and what is refused."""

from pathlib import Path

import pytest

from gateway import tokens
from gateway.config.providers import VOCABULARIES
from gateway.config.settings import ModelConfig, Secret, Settings
from tests.gateway.config.support import load, problems
from tests.support.shipped import shipped_settings
from tests.support.tables import Tables

TABLES = Tables(__file__)

ROUTES = "models:\n  demo: {provider: p}\n"


def with_provider(folder: Path, text: str, **environ: str) -> Settings:
    return load(folder, environ, main=f"providers:\n  p: {text}\n{ROUTES}")


def refused(folder: Path, text: str, **environ: str) -> list[str]:
    return problems(folder, environ, main=f"providers:\n  p: {text}\n{ROUTES}")


def test_a_provider_without_its_key_is_off(tmp_path):
    text = '{kind: openai, base_url: "https://h/v1", api_key: "${P_KEY}"}'
    for environ in ({}, {"P_KEY": ""}):
        provider = with_provider(tmp_path, text, **environ).providers["p"]
        assert (provider.enabled, provider.off_reason, provider.api_key) == (False, "P_KEY is not set", None)
    provider = with_provider(tmp_path, text, P_KEY="sk-1").providers["p"]
    assert (provider.enabled, provider.off_reason, provider.api_key) == (True, None, Secret("sk-1"))


def test_a_server_of_ones_own_needs_no_key(tmp_path):
    provider = with_provider(tmp_path, '{kind: openai, base_url: "http://10.0.0.5:8000/v1/"}').providers["p"]
    assert (provider.enabled, provider.api_key, provider.base_url) == (True, None, "http://10.0.0.5:8000/v1")


@pytest.mark.parametrize("key", ['"${P_KEY:-}"', '""', "null"])
def test_an_empty_key_turns_a_provider_off(tmp_path, key):
    provider = with_provider(tmp_path, f'{{kind: openai, base_url: "http://h", api_key: {key}}}').providers["p"]
    assert provider.off_reason == "api_key is empty"


def test_a_provider_can_be_turned_off(tmp_path):
    provider = with_provider(tmp_path, "{kind: local, enabled: false, delay_ms: 5, chunk_delay_ms: 7}").providers["p"]
    assert (provider.enabled, provider.off_reason) == (False, "enabled is false")
    assert (provider.delay_ms, provider.chunk_delay_ms) == (5, 7)


def test_headers_are_kept_and_never_shown(tmp_path):
    text = '{kind: openai, base_url: "https://h", headers: {X-Title: "${T}", api-key: hidden}}'
    provider = with_provider(tmp_path, text, T="Ours").providers["p"]
    assert provider.headers == {"X-Title": "Ours", "api-key": "hidden"}
    assert "hidden" not in repr(provider)


OF_OPENAI = {"openai", "responses_websocket"}


def test_a_provider_names_the_dialects_that_it_serves(tmp_path):
    usual = with_provider(tmp_path, '{kind: openai, base_url: "https://h/v1?v=1"}').providers["p"]
    assert (usual.served, usual.url_of("openai")) == (OF_OPENAI, ("https://h/v1", "v=1"))
    assert usual.url_of("other") is None
    text = '{kind: openai, base_url: "https://h/v1", dialects: {other: "https://o/x/?key=hidden"}}'
    both = with_provider(tmp_path, text).providers["p"]
    assert both.served == {*OF_OPENAI, "other"}
    assert (both.url_of("openai"), both.url_of("other")) == (("https://h/v1", ""), ("https://o/x", "key=hidden"))
    assert "hidden" not in repr(both)
    replaced = with_provider(tmp_path, '{kind: openai, dialects: {openai: "https://api.openai.com/v1"}}').providers["p"]
    assert (replaced.served, replaced.url_of("openai")) == ({"openai"}, ("https://api.openai.com/v1", ""))
    assert replaced.max_output_field == "max_completion_tokens"
    other = with_provider(tmp_path, '{kind: openai, dialects: {other: "https://o"}}').providers["p"]
    assert (other.served, other.url_of("openai")) == ({"other"}, None)


def test_a_kind_serves_its_usual_dialects(tmp_path):
    local = with_provider(tmp_path, "{kind: local}").providers["p"]
    assert local.served == {*OF_OPENAI, "anthropic", "gemini", "rerank"}
    assert (local.url_of("openai"), local.url_of("anthropic")) == (("local://p/v1", ""), ("local://p", ""))
    google = with_provider(tmp_path, "{kind: gemini, base_url: 'https://g', api_key: k}").providers["p"]
    assert google.served == {"openai", "gemini"}
    assert (google.url_of("openai"), google.url_of("gemini")) == (("https://g/v1beta/openai", ""), ("https://g", ""))
    text = '{kind: anthropic, base_url: "https://api.anthropic.com", api_key: k}'
    anthropic = with_provider(tmp_path, text).providers["p"]
    assert anthropic.served == {"openai", "anthropic"}
    assert anthropic.url_of("anthropic") == ("https://api.anthropic.com", "")
    assert anthropic.url_of("openai") == ("https://api.anthropic.com/v1", "")


def test_a_provider_may_get_more_of_a_clients_headers(tmp_path):
    text = '{kind: openai, base_url: "https://h", pass_headers: [HTTP-Referer, traceparent]}'
    assert with_provider(tmp_path, text).providers["p"].pass_headers == ("HTTP-Referer", "traceparent")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{kind: openai, base_url: "https://api.openai.com/v1"}', "max_completion_tokens"),
        ('{kind: openai, base_url: "https://ours.openai.azure.com/openai/v1/"}', "max_completion_tokens"),
        ('{kind: openai, base_url: "https://api.deepseek.com/v1"}', "max_tokens"),
        ('{kind: openai, base_url: "https://api.openai.com.example.org/v1"}', "max_tokens"),
        ('{kind: openai, base_url: "http://10.0.0.5:8000/v1"}', "max_tokens"),
        ('{kind: openai, base_url: "http://10.0.0.5:8000/v1", max_output_field: n_predict}', "n_predict"),
        ('{kind: openai, base_url: "https://api.openai.com/v1", max_output_field: max_tokens}', "max_tokens"),
    ],
)
def test_where_a_provider_takes_the_most_output_tokens(tmp_path, text, field):
    assert with_provider(tmp_path, text).providers["p"].max_output_field == field


@TABLES.each("wrong_providers_are_refused")
def test_wrong_providers_are_refused(tmp_path, text, problem):
    (found,) = refused(tmp_path, text)
    assert found.startswith(f"metergate.yaml:2: {problem}")


@pytest.mark.parametrize(
    "text",
    [
        "{kind: openai, base_url: http://h, api_key: 123456789}",
        '{kind: openai, base_url: http://h, api_key: "123456789\\n"}',
        "{kind: openai, base_url: http://h, api_key: [123456789]}",
        "{kind: openai, base_url: http://u:123456789@h}",
        '{kind: openai, base_url: http://h, api_key: "${P_KEY}"}',
    ],
)
def test_a_wrong_key_is_not_shown(tmp_path, text):
    (found,) = refused(tmp_path, text, P_KEY="123456789 ü")
    assert "123456789" not in found


def test_a_providers_name_has_no_slash(tmp_path):
    found = problems(tmp_path, main="providers:\n  a/b: {kind: local}\nmodels: {demo: {provider: a/b}}\n")
    assert found == ["metergate.yaml:2: providers.a/b: a provider's name is letters, digits, '.', '_' and '-'"]


def models(folder: Path, text: str) -> dict[str, ModelConfig]:
    return dict(
        load(
            folder, main=f"providers: {{local: {{kind: local}}}}\nmodels:\n  other: {{provider: local}}\n{text}"
        ).models
    )


def test_a_model_with_everything(tmp_path):
    text = """\
  m:
    provider: local
    model: upstream
    fallbacks: [other]
    markup_percent: "12.5"
    vocabulary: cl100k_base
    max_output_tokens: 100
    disconnect_drain_s: 7.5
    default_tool_calls: 3
"""
    assert models(tmp_path, text)["m"] == ModelConfig(
        "m", "local", "upstream", ("other",), 12_500_000_000, "cl100k_base", 100, 7.5, default_tool_calls=3
    )


def test_a_provider_says_how_long_its_answers_are_read_on(tmp_path):
    assert with_provider(tmp_path, "{kind: local}").providers["p"].disconnect_drain_s is None
    assert with_provider(tmp_path, "{kind: local, disconnect_drain_s: 0}").providers["p"].disconnect_drain_s == 0


def test_a_model_with_a_provider_alone(tmp_path):
    assert models(tmp_path, "  m: {provider: local}\n")["m"] == ModelConfig("m", "local", "m")


@TABLES.each("wrong_models_are_refused")
def test_wrong_models_are_refused(tmp_path, text, problem):
    main = f"providers: {{local: {{kind: local}}}}\nmodels:\n  other: {{provider: local}}\n  m: {text}\n"
    (found,) = problems(tmp_path, main=main)
    assert found.startswith(f"metergate.yaml:4: {problem}")


def test_a_fallback_names_one_model(tmp_path):
    entries = '  "g-*": {provider: local}\n  m: {provider: local, fallbacks: [g-*]}\n'
    (found,) = problems(tmp_path, main=f"providers: {{local: {{kind: local}}}}\nmodels:\n{entries}")
    assert found.endswith("models.m.fallbacks: g-* stands for many models: a fallback names one")


@pytest.mark.parametrize("name", ["a b", "a*b", "*", "x" * 201])
def test_names_that_no_client_could_ask_for(tmp_path, name):
    main = f'providers: {{local: {{kind: local}}}}\nmodels:\n  ? "{name}"\n  : {{provider: local}}\n'
    (found,) = problems(tmp_path, main=main)
    assert "a model's name has 1 to 200 characters" in found


def test_a_wrong_provider_is_one_problem_not_one_for_each_of_its_models(tmp_path):
    assert len(problems(tmp_path, main="providers:\n  p: {kind: opnai}\nmodels:\n  a: {provider: p}\n")) == 1


def test_the_vocabularies_are_those_that_are_shipped():
    assert set(VOCABULARIES) == {tokens.O200K, tokens.CL100K}


def test_the_shipped_files_say_what_their_providers_and_models_need():
    settings = shipped_settings("")
    fields = {name: provider.max_output_field for name, provider in settings.providers.items()}
    assert fields["openai"] == "max_completion_tokens"
    assert (fields["deepseek"], fields["openrouter"]) == ("max_tokens", "max_tokens")
    rows = {(row.provider, row.model): row for row in settings.prices.rows}
    hidden = {name for name, row in rows.items() if row.hidden_reasoning}
    assert {("openai", "o3"), ("openai", "gpt-5"), ("openrouter", "*")} <= hidden
    assert not hidden & {("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("local", "*")}
    assert rows["openai", "gpt-4o-mini-search-preview"].per_unit == {"search": 25_000_000}


def test_a_base_url_may_carry_a_query(tmp_path):
    text = '{kind: openai, base_url: "https://ours.openai.azure.com/openai/?api-version=1&sig=hidden"}'
    provider = with_provider(tmp_path, text).providers["p"]
    assert (provider.base_url, provider.base_query) == (
        "https://ours.openai.azure.com/openai",
        "api-version=1&sig=hidden",
    )
    assert provider.max_output_field == "max_completion_tokens"
    assert "hidden" not in repr(provider)
