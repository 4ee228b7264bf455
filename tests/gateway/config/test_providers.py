"""Defaults of each kind of provider, which an entry's own values override."""

from pathlib import Path
from typing import get_args

import pytest

from gateway.config.settings import ProviderConfig
from gateway.dialects.openai.vendors import COMPATIBLE, MaxOutputField
from tests.gateway.config.support import load, problems


def provider(folder: Path, text: str) -> ProviderConfig:
    return load(folder, {}, main=f"providers:\n  p: {text}\nmodels:\n  demo: {{provider: p}}\n").providers["p"]


@pytest.mark.parametrize("kind", [kind for kind, usual in COMPATIBLE.items() if usual.base_url])
def test_a_kind_that_is_known_needs_nothing_but_its_key(tmp_path, kind):
    made, usual = provider(tmp_path, f"{{kind: {kind}, api_key: key}}"), COMPATIBLE[kind]
    assert (made.kind, made.enabled) == ("openai", True)
    assert made.url_of("openai") == (usual.base_url, "")
    assert (made.max_output_field, made.stream_usage) == (usual.max_output_field, usual.stream_usage)
    assert made.max_output_field in get_args(MaxOutputField)


@pytest.mark.parametrize("kind", [kind for kind, usual in COMPATIBLE.items() if not usual.base_url])
def test_one_that_each_operator_has_elsewhere_needs_its_address(tmp_path, kind):
    found = problems(tmp_path, {}, main=f"providers:\n  p: {{kind: {kind}}}\nmodels:\n  demo: {{provider: p}}\n")
    assert any("providers.p.base_url: missing" in each for each in found)
    assert provider(tmp_path, f"{{kind: {kind}, base_url: http://h/v1}}").base_url == "http://h/v1"


def test_what_an_entry_says_goes_first(tmp_path):
    made = provider(tmp_path, "{kind: mistral, base_url: http://h/v1, max_output_field: n_predict, stream_usage: true}")
    assert (made.base_url, made.max_output_field, made.stream_usage) == ("http://h/v1", "n_predict", True)


def test_whether_zeros_are_believed(tmp_path):
    assert provider(tmp_path, "{kind: vllm, base_url: http://h/v1}").zero_usage == "estimate"
    assert provider(tmp_path, "{kind: vllm, base_url: http://h/v1, zero_usage: trust}").zero_usage == "trust"
    main = "providers:\n  p: {kind: vllm, base_url: http://h/v1, zero_usage: believe}\nmodels:\n  demo: {provider: p}\n"
    assert any("providers.p.zero_usage: " in each for each in problems(tmp_path, {}, main=main))


def test_where_reranks_are_served(tmp_path):
    assert provider(tmp_path, "{kind: cohere, api_key: key}").url_of("rerank") == ("https://api.cohere.com/v2", "")
    assert provider(tmp_path, "{kind: vllm, base_url: http://h/v1/}").url_of("rerank") == ("http://h/v1", "")
    queried = provider(tmp_path, '{kind: vllm, base_url: "http://h/v1?a=b"}')
    assert queried.url_of("rerank") == queried.url_of("openai") == ("http://h/v1", "a=b")
    assert provider(tmp_path, "{kind: local}").url_of("rerank") == ("local://p/v1", "")
    assert provider(tmp_path, "{kind: openai, base_url: http://h/v1}").url_of("rerank") is None
    own = "{kind: cohere, base_url: http://h/v1, api_key: key"
    assert provider(tmp_path, own + "}").url_of("rerank") is None  # the key is for that server
    assert provider(tmp_path, own + ", dialects: {rerank: http://h/v2}}").url_of("rerank") == ("http://h/v2", "")


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("{kind: openai, base_url: 'https://api.openai.com/v1', api_key: key}", ("https://api.openai.com/v1", "")),
        ("{kind: xai, api_key: key}", ("https://api.x.ai/v1", "")),
        ("{kind: openai, base_url: http://h/v1}", ("http://h/v1", "")),
        ("{kind: openai, base_url: 'http://h/v1?a=b'}", ("http://h/v1", "a=b")),
        ("{kind: vllm, base_url: http://h/v1}", None),
        ("{kind: local}", ("local://p/v1", "")),
        ("{kind: vllm, base_url: http://h/v1, dialects: {responses_websocket: http://h/v2}}", ("http://h/v2", "")),
    ],
)
def test_where_responses_are_served_over_a_websocket(tmp_path, entry, url):
    assert provider(tmp_path, entry).url_of("responses_websocket") == url


def test_how_its_bill_is_read(tmp_path):
    made = provider(tmp_path, "{kind: openrouter, api_key: key, billing: {key: managing, keys: [k1], providers: [q]}}")
    assert (made.billing.source, made.billing.base_url) == ("openrouter", "https://openrouter.ai/api/v1")
    assert (made.billing.keys, made.billing.providers, made.billing.tolerance_nano) == (("k1",), ("q",), 10_000_000)
    assert "managing" not in repr(made)
    unset = provider(tmp_path, '{kind: openai, base_url: "http://h", billing: {key: "${NO_SUCH_KEY}"}}')
    assert unset.enabled
    assert unset.billing.key is None
    for text, where in (("{}", "key"), ("{key: k, source: x}", "source"), ("{key: k, tolerance_usd: 1}", "tolerance")):
        entry = f"{{kind: openai, base_url: http://h, billing: {text}}}"
        found = problems(tmp_path, {}, main=f"providers:\n  p: {entry}\nmodels:\n  demo: {{provider: p}}\n")
        assert any(f"providers.p.billing.{where}" in each for each in found), found
    found = problems(tmp_path, {}, main="providers:\n  p: {kind: vllm, base_url: http://h, billing: {key: k}}\n")
    assert any("providers.p.billing.source: missing" in each for each in found), found
