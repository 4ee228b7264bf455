"""The defaults: their values, ranges, and that each is refused outside of its own."""

import pytest
import yaml

from billing.money import parse_share
from gateway.config.defaults import KEYS, Defaults
from gateway.config.source import SHIPPED_FOLDER
from gateway.server.exchange import CLIENT_WRITE_TIMEOUT_S
from tests.gateway.config.support import MAIN, load, problems

PROMISED = {
    **{"strict": True, "min_output_tokens": 16, "estimated_output_tokens": 512, "elastic_share": "0.25"},
    **{"elastic_output_tokens": 4096, "missing_usage": "estimate", "expired_hold": "void", "disconnect_drain_s": 5},
    **{"upstream_timeout_s": 600, "max_unsettled": 100_000, "shutdown_grace_s": 30, "reconcile_interval_s": 300},
    **{"credits_per_usd": 1000, "lease_s": 5, "settle_timeout_ms": 500, "redis_partitions": None},
    **{"default_plan": "free", "reasoning_drain_s": 60, "max_usage_factor": 20, "max_request_s": 3600},
    "client_write_timeout_s": 60,
}


def test_the_promised_values():
    assert Defaults().having(**PROMISED) == Defaults()


def test_what_is_shipped_names_the_values_that_hold_without_it():
    shipped = yaml.safe_load((SHIPPED_FOLDER / "metergate.yaml").read_text("utf-8"))["defaults"]
    assert "client_write_timeout_s" in shipped
    assert Defaults().having(**shipped) == Defaults()
    assert Defaults().edge.client_write_timeout_s == CLIENT_WRITE_TIMEOUT_S


def test_without_the_section_they_hold(tmp_path):
    assert load(tmp_path).defaults == load(tmp_path, main=MAIN + "defaults:\n").defaults == Defaults()


def test_what_a_file_says(tmp_path):
    text = "{strict: false, missing_usage: hold, upstream_timeout_s: 0.5, redis_partitions: 8, default_plan: pro}"
    defaults = load(tmp_path, main=f"{MAIN}defaults: {text}\n").defaults
    assert defaults == Defaults().having(
        strict=False, missing_usage="hold", upstream_timeout_s=0.5, redis_partitions=8, default_plan="pro"
    )


@pytest.mark.parametrize("text", ["0.5", '"0.5"', '".5"', "0.50"])
def test_a_share_is_read_as_it_is_written(tmp_path, text):
    share = load(tmp_path, main=f"{MAIN}defaults: {{elastic_share: {text}}}\n").defaults.holds.elastic_share
    assert parse_share(share) == 500_000


@pytest.mark.parametrize("text", ["0", "1.01", "-0.5", "0.0000001", "half", "5e-1", "[0.5]"])
def test_what_is_no_share_is_refused(tmp_path, text):
    (found,) = problems(tmp_path, main=f"{MAIN}defaults: {{elastic_share: {text}}}\n")
    assert found.startswith("metergate.yaml:7: defaults.elastic_share: expected a share above 0 to 1")
    with pytest.raises(ValueError, match="elastic_share"):
        Defaults().having(elastic_share="2")


def test_names_are_a_list(tmp_path):
    text = "{session_headers: [x-run-id, session-id]}"
    assert load(tmp_path, main=f"{MAIN}defaults: {text}\n").defaults.request.session_headers == (
        "x-run-id",
        "session-id",
    )
    assert load(tmp_path, main=f"{MAIN}defaults: {{session_headers: []}}\n").defaults.request.session_headers == ()
    assert problems(tmp_path, main=f"{MAIN}defaults: {{session_headers: {['h'] * 17}}}\n")
    for wrong in ((), ("",), "session-id"):
        if wrong:
            with pytest.raises(ValueError, match="session_headers"):
                Defaults().having(session_headers=wrong)


def test_partitions_may_be_null(tmp_path):
    assert load(tmp_path, main=MAIN + "defaults: {redis_partitions: null}\n").defaults.stores.redis_partitions is None


@pytest.mark.parametrize("name", [name for name, (_, key) in KEYS.items() if key.kind.type in (int, float)])
def test_each_bound_has_two_ends(tmp_path, name):
    kind = KEYS[name][1].kind
    for beyond in (kind.bound("ge") - 1, kind.bound("le") + 1, '"5"', "five", "true", "[5]"):
        (found,) = problems(tmp_path, main=f"{MAIN}defaults: {{{name}: {beyond}}}\n")
        assert found.startswith(f"metergate.yaml:7: defaults.{name}: expected a ")
    for end in (kind.bound("ge"), kind.bound("le")):
        assert Defaults().having(**{name: end})
    for wrong in (kind.bound("le") + 1, "5"):
        with pytest.raises(ValueError, match=name):
            Defaults().having(**{name: wrong})


@pytest.mark.parametrize("value", [".inf", ".nan", "1e3", "0x10", "1:30"])
def test_odd_numbers_are_refused(tmp_path, value):
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
def test_wrong_defaults_are_refused(tmp_path, text, problem):
    assert problems(tmp_path, main=f"{MAIN}defaults: {text}\n") == [f"metergate.yaml:7: {problem}"]


def test_construction_checks_too():
    with pytest.raises(ValueError, match="batch_items must be 1 to 64"):
        Defaults().having(batch_items=65)
    with pytest.raises(ValueError, match="missing_usage must be estimate, hold, free"):
        Defaults().having(missing_usage="guess")
