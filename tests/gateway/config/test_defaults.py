"""The defaults: their values, ranges, and that each is refused outside of its own."""

from pathlib import Path

import pytest

from billing.money import parse_share
from gateway.config.defaults import BOUNDS, Limits
from gateway.config.settings import warnings
from tests.gateway.config.support import MAIN, load, problems


def test_the_promised_values() -> None:
    defaults = Limits()
    assert defaults.strict is True
    assert (defaults.min_output_tokens, defaults.estimated_output_tokens) == (16, 512)
    assert (defaults.elastic_share, defaults.elastic_output_tokens) == ("0.25", 4096)
    assert (defaults.missing_usage, defaults.expired_hold) == ("estimate", "void")
    assert (defaults.disconnect_drain_s, defaults.upstream_timeout_s) == (5, 600)
    assert (defaults.max_unsettled, defaults.shutdown_grace_s, defaults.reconcile_interval_s) == (100_000, 30, 300)
    assert (defaults.credits_per_usd, defaults.lease_s, defaults.settle_timeout_ms) == (1000, 5, 500)
    assert (defaults.redis_partitions, defaults.default_plan) == (None, "free")
    assert (defaults.reasoning_drain_s, defaults.max_usage_factor) == (60, 20)
    assert (defaults.max_request_s, defaults.client_write_timeout_s) == (3600, 60)


def test_without_the_section_they_hold(tmp_path: Path) -> None:
    assert load(tmp_path).defaults == load(tmp_path, main=MAIN + "defaults:\n").defaults == Limits()


def test_what_a_file_says(tmp_path: Path) -> None:
    text = "{strict: false, missing_usage: hold, upstream_timeout_s: 0.5, redis_partitions: 8, default_plan: pro}"
    defaults = load(tmp_path, main=f"{MAIN}defaults: {text}\n").defaults
    assert defaults == Limits(
        strict=False, missing_usage="hold", upstream_timeout_s=0.5, redis_partitions=8, default_plan="pro"
    )


@pytest.mark.parametrize("text", ["0.5", '"0.5"', '".5"', "0.50"])
def test_a_share_is_read_as_it_is_written(tmp_path: Path, text: str) -> None:
    share = load(tmp_path, main=f"{MAIN}defaults: {{elastic_share: {text}}}\n").defaults.elastic_share
    assert parse_share(share) == 500_000


@pytest.mark.parametrize("text", ["0", "1.01", "-0.5", "0.0000001", "half", "5e-1", "[0.5]"])
def test_what_is_no_share_is_refused(tmp_path: Path, text: str) -> None:
    (found,) = problems(tmp_path, main=f"{MAIN}defaults: {{elastic_share: {text}}}\n")
    assert found.startswith("metergate.yaml:7: defaults.elastic_share: expected a share above 0 to 1")
    with pytest.raises(ValueError, match="elastic_share"):
        Limits(elastic_share="2")


def test_names_are_a_list(tmp_path: Path) -> None:
    text = "{session_headers: [x-run-id, session-id]}"
    assert load(tmp_path, main=f"{MAIN}defaults: {text}\n").defaults.session_headers == ("x-run-id", "session-id")
    assert load(tmp_path, main=f"{MAIN}defaults: {{session_headers: []}}\n").defaults.session_headers == ()
    assert problems(tmp_path, main=f"{MAIN}defaults: {{session_headers: {['h'] * 17}}}\n")
    for wrong in ((), ("",), "session-id"):
        if wrong:
            with pytest.raises(ValueError, match="session_headers"):
                Limits(session_headers=wrong)  # type: ignore[arg-type]


def test_partitions_may_be_null(tmp_path: Path) -> None:
    assert load(tmp_path, main=MAIN + "defaults: {redis_partitions: null}\n").defaults.redis_partitions is None


@pytest.mark.parametrize("name", [name for name, bound in BOUNDS.items() if bound.kind in ("whole", "number")])
def test_each_bound_has_two_ends(tmp_path: Path, name: str) -> None:
    bound = BOUNDS[name]
    for beyond in (bound.low - 1, bound.high + 1, '"5"', "five", "true", "[5]"):
        (found,) = problems(tmp_path, main=f"{MAIN}defaults: {{{name}: {beyond}}}\n")
        assert found.startswith(f"metergate.yaml:7: defaults.{name}: expected a ")
    assert bound.admits(int(bound.low) or 0) or bound.kind == "number"
    assert not bound.admits(bound.high + 1)
    assert not bound.admits("5")


@pytest.mark.parametrize("value", [".inf", ".nan", "1e3", "0x10", "1:30"])
def test_odd_numbers_are_refused(tmp_path: Path, value: str) -> None:
    assert len(problems(tmp_path, main=f"{MAIN}defaults: {{upstream_timeout_s: {value}}}\n")) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{missing_usage: guess}", 'defaults.missing_usage: expected one of estimate, hold, free, got "guess"'),
        ("{expired_hold: hold}", 'defaults.expired_hold: expected one of void, input, got "hold"'),
        ("{strict: 1}", "defaults.strict: expected true or false, got 1"),
        ("{default_plan: fre}", 'defaults.default_plan: expected a plan of plans.yaml, got "fre"; did you mean free?'),
        ("{leese_s: 5}", "defaults.leese_s: unknown key; did you mean lease_s?"),
        ("[strict]", "defaults: expected a mapping, got a list"),
    ],
)
def test_wrong_defaults_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert problems(tmp_path, main=f"{MAIN}defaults: {text}\n") == [f"metergate.yaml:7: {problem}"]


def test_construction_checks_too() -> None:
    with pytest.raises(ValueError, match="batch_items must be 1 to 64"):
        Limits(batch_items=65)
    with pytest.raises(ValueError, match="missing_usage must be estimate, hold, free"):
        Limits(missing_usage="guess")  # type: ignore[arg-type]


def test_a_key_of_an_older_version_is_a_warning_that_says_so(tmp_path: Path) -> None:
    settings = load(tmp_path, main=f"{MAIN}defaults: {{hold_ttl_s: 900}}\n")
    assert settings.defaults == Limits()
    (warning,) = [each for each in warnings(settings, 2e9) if "hold_ttl_s" in each]
    assert "metergate.yaml:7: defaults.hold_ttl_s: is not used any more" in warning
