"""A provider's base URLs and keys, and its cool-down: what is read and refused, and where a key is never sent."""

from pathlib import Path

import pytest

from gateway.config.providers import MAX_TARGETS, TargetConfig
from gateway.config.settings import ProviderConfig, Secret
from gateway.upstream.health import Cooldown
from tests.gateway.config.support import load, problems

KEYS = {"KEY_1": "sk-1", "KEY_2": "sk-2"}


def entry(rest: str) -> str:
    own = 'kind: openai, base_url: "https://a/v1?v=1", api_key: "${KEY_1}"'
    return f"providers:\n  p: {{{own}, {rest}}}\nmodels:\n  demo: {{provider: p}}\n"


def provider(folder: Path, rest: str) -> ProviderConfig:
    return load(folder, KEYS, main=entry(rest)).providers["p"]


def test_targets_have_what_their_entry_has_unless_they_say_otherwise(tmp_path):
    targets = '{}, {api_key: "${KEY_2}", weight: 3}, {base_url: "https://b/v1/?z=2"}, {api_key: "${GONE}"}'
    assert provider(tmp_path, f"targets: [{targets}]").targets == (
        TargetConfig("https://a/v1", Secret("sk-1"), 1, "v=1"),
        TargetConfig("https://a/v1", Secret("sk-2"), 3, "v=1"),
        TargetConfig("https://b/v1", None, 1, "z=2"),
    )


@pytest.mark.parametrize(
    ("url", "gets_it"),
    [
        ("https://a/v2", True),
        ("https://a:443", True),
        ("https://A/v1", True),
        ("http://a/v1", False),
        ("https://a:8443/v1", False),
        ("https://a.b/v1", False),
        ("https://b/a", False),
    ],
)
def test_the_entrys_key_and_headers_are_sent_to_its_own_origin_alone(tmp_path, url, gets_it):
    (target,) = provider(tmp_path, f'headers: {{X-Secret: s}}, targets: [{{base_url: "{url}"}}]').targets
    assert (target.api_key is not None) == gets_it
    assert dict(target.headers) == ({"X-Secret": "s"} if gets_it else {})


def test_a_target_elsewhere_has_a_key_and_headers_of_its_own(tmp_path):
    rest = 'headers: {X-Of: a}, targets: [{base_url: "https://b", api_key: "${KEY_2}", headers: {X-Of: b}}]'
    (target,) = provider(tmp_path, rest).targets
    assert (target.api_key, dict(target.headers)) == (Secret("sk-2"), {"X-Of": "b"})


def test_an_entry_without_targets_is_the_only_one(tmp_path):
    found = provider(tmp_path, "enabled: true")
    assert (found.targets, found.all_targets) == ((), (TargetConfig("https://a/v1", Secret("sk-1"), 1, "v=1"),))


def test_a_provider_is_off_where_no_target_has_its_key(tmp_path):
    gone = provider(tmp_path, 'targets: [{api_key: "${GONE}"}]')
    assert gone.off_reason == "none of its targets has a key that is set"
    main = entry('targets: [{}, {api_key: "${KEY_2}"}]').replace("KEY_1", "GONE")
    found = load(tmp_path, KEYS, main=main).providers["p"]
    assert found.enabled
    assert [target.api_key for target in found.all_targets] == [Secret("sk-2")]


def test_a_target_with_a_base_url_of_its_own_serves_the_dialect_of_its_kind_alone(tmp_path):
    targets = 'targets: [{api_key: "${KEY_2}"}, {base_url: "https://b/v1"}]'
    found = provider(tmp_path, f'dialects: {{anthropic: "https://a/anthropic"}}, {targets}')
    same, elsewhere = found.all_targets
    assert (found.url_of("openai", same), found.url_of("anthropic", same)) == (
        ("https://a/v1", "v=1"),
        ("https://a/anthropic", ""),
    )
    assert (found.url_of("openai", elsewhere), found.url_of("anthropic", elsewhere)) == (("https://b/v1", ""), None)


def test_a_target_shows_neither_its_key_nor_its_query(tmp_path):
    shown = repr(provider(tmp_path, 'targets: [{api_key: "${KEY_2}", base_url: "https://b?secret=1"}]').targets)
    assert "sk-2" not in shown
    assert "secret" not in shown


def test_a_cool_down_has_defaults_and_bounds(tmp_path):
    assert provider(tmp_path, "enabled: true").cooldown == Cooldown()
    read = provider(tmp_path, "cooldown: {failures: 5, seconds: 0.5, retry_after_s: 0, probe_s: 2}").cooldown
    assert read == Cooldown(5, 0.5, 0, 2)


@pytest.mark.parametrize(
    ("rest", "place"),
    [
        ("targets: {}", "targets: expected a list"),
        ("targets: [{weight: 0}]", "targets[0].weight: expected a whole number from 1 to"),
        ('targets: [{}, {base_url: "b"}]', "targets[1].base_url: expected a URL"),
        ("targets: [{key: x}]", "targets[0].key: unknown key"),
        (f"targets: [{'{}, ' * (MAX_TARGETS + 1)}]", f"targets: at most {MAX_TARGETS} targets"),
        ("cooldown: {failures: 0}", "cooldown.failures: expected a whole number from 1 to"),
        ("cooldown: {seconds: 0}", "cooldown.seconds: expected a number from 0.1 to"),
        ("cooldown: {retry_after_s: 4000}", "cooldown.retry_after_s: expected a number from 0 to"),
        ("cooldown: {probe_s: .inf}", "cooldown.probe_s: expected a number"),
        ("cooldown: 3", "cooldown: expected a mapping"),
    ],
)
def test_what_is_wrong_is_refused_by_its_place(tmp_path, rest, place):
    assert any(f"providers.p.{place}" in line for line in problems(tmp_path, KEYS, main=entry(rest)))
