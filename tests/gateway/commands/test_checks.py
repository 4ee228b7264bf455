"""What the doctor finds in the configuration, in the environment and on the disk."""

from dataclasses import replace
from functools import cache

import pytest

from billing.plans import Plan, upgrade_cycles
from gateway.commands import doctor
from gateway.commands.doctor import (
    Check,
    check_development,
    check_disk,
    check_mail,
    check_metrics,
    check_models,
    check_secrets,
    disk_finding,
)
from gateway.config.providers import unknown_models
from gateway.config.settings import ModelConfig, ProviderConfig, Settings, load_settings, warnings
from tests.support.mail import Mailbox, mail_server

pytestmark = pytest.mark.slow


@cache
def settings(**environ: str) -> Settings:
    return load_settings(environ, mode="command")


def only(found: list[Check]) -> Check:
    (check,) = found
    assert bool(check.mend) == (check.status != "ok")
    return check


def test_models_whose_provider_is_off():
    off = {
        name: ProviderConfig(name, "openai", off_reason=f"{name.upper()}_API_KEY is not set")
        for name in ("openai", "xai")
    }
    models = {name: ModelConfig(name, "xai" if name == "g" else "openai", name) for name in "abcdefg"}
    found = only(check_models(off, models, {}))
    assert found.status == "ok"  # the shipped file has models of many providers
    assert found.message == "7 can't be used, because their providers are off: openai, xai"
    paid, unpaid = check_models(off, models, {"pro": Plan("pro", "Pro", 1, models=("b", "demo"))})
    assert (paid.status, paid.mend.endswith(": b.")) == ("warn", True)
    assert paid.message.startswith("6 can't be used, because openai is off (OPENAI_API_KEY is not set): a, b, c")
    assert (unpaid.status, unpaid.message[:20]) == ("ok", "1 can't be used, bec")
    on = {"local": ProviderConfig("local", "local")}
    demo = {"demo": ModelConfig("demo", "local", "demo", fallbacks=("c",))}
    assert [each.status for each in check_models({**off, **on}, {**models, **demo}, {})] == ["warn", "ok"]
    assert only(check_models(on, {"demo": ModelConfig("demo", "local", "demo")}, {})).status == "ok"


def test_development_is_warned_of():
    assert check_development(settings()) == check_development(settings(METERGATE_DEVELOPMENT="0")) == []
    assert only(check_development(settings(METERGATE_DEVELOPMENT="1"))).status == "warn"


def test_secrets_that_are_short():
    assert only(check_secrets(settings())).status == "ok"
    short = settings(INTERNAL_SERVICE_TOKEN="herring")
    found = only(check_secrets(short))
    assert (found.status, "INTERNAL_SERVICE_TOKEN" in found.message) == ("fail", True)
    assert "herring" not in str(found)
    assert only(check_secrets(settings(INTERNAL_SERVICE_TOKEN="x" * 24))).status == "ok"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("", "ok"),
        ("127.0.0.1:9090", "ok"),
        ("10.1.2.3:9090", "ok"),
        ("[::1]:9090", "ok"),
        ("inside:9090", "ok"),
        ("0.0.0.0:9090", "warn"),
        (":9090", "warn"),
        ("[::]:9090", "warn"),
        ("8.8.8.8:9090", "warn"),
    ],
)
def test_metrics_that_anybody_may_read(address, status):
    assert only(check_metrics(settings(METRICS_ADDR=address))).status == status


def test_where_metrics_are_read():
    unset, off = (only(check_metrics(settings(METRICS_ADDR=address))).message for address in ("", "off"))
    assert "`metergate up`: at 127.0.0.1:9090, without a key" in unset
    assert "`metergate serve`: at /metrics" in unset
    assert off == "at /metrics of the gateway, with the admin key"


def test_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 1)
    monkeypatch.setattr(doctor, "LEAST_BYTES", 0)
    found = only(check_disk(settings(METERGATE_DATA_DIR=str(tmp_path / "not" / "yet"))))
    assert (found.name, found.status) == ("disk", "ok")
    assert str(tmp_path / "not" / "yet") in found.message
    monkeypatch.setattr(doctor, "LITTLE_BYTES", 1 << 62)
    assert disk_finding("disk", tmp_path).status == "warn"
    monkeypatch.setattr(doctor, "LEAST_BYTES", 1 << 62)
    assert disk_finding("disk", tmp_path).status == "fail"
    given = {"DATABASE_URL": "postgresql://h/n", "REDIS_URL": "redis://h", "METERGATE_DATA_DIR": str(tmp_path / "no")}
    assert check_disk(settings(**given)) == []  # nothing is written here
    logged = {**given, "METERGATE_REQUEST_LOG": str(tmp_path / "log"), "METERGATE_SPOOL_DIR": str(tmp_path)}
    assert [check.name for check in check_disk(settings(**logged))] == ["spool disk", "request log disk"]


def plan(plan_id: str, upgrade_to: str | None) -> Plan:
    return Plan(plan_id, plan_id, 0, upgrade_to=upgrade_to)


@pytest.mark.parametrize(
    ("ways", "cycles"),
    [
        ({"a": "b", "b": "c", "c": None}, []),
        ({"a": "b", "b": "a"}, [("a", "b")]),
        ({"z": "c", "c": "b", "b": "c", "y": "z"}, [("b", "c")]),
        ({"a": "b", "b": "a", "d": "e", "e": "f", "f": "d"}, [("a", "b"), ("d", "e", "f")]),
        ({"a": "gone"}, []),
    ],
)
def test_upgrades_that_lead_back(ways, cycles):
    assert upgrade_cycles({name: plan(name, to) for name, to in ways.items()}) == cycles


def test_a_start_warns_of_upgrades_that_lead_back(tmp_path):
    (tmp_path / "metergate.yaml").write_text("providers: {local: {kind: local}}\nmodels: {demo: {provider: local}}\n")
    (tmp_path / "prices.yaml").write_text(
        '- {provider: local, model: demo, effective_from: "2024-07-18", per_million: {input: "1", output: "1"}}\n'
        '- {provider: gone, model: demo, effective_from: "2024-07-18", per_million: {input: "1", output: "1"}}\n'
    )
    (tmp_path / "plans.yaml").write_text(
        'free: {name: Free, price_usd: "0", upgrade_to: big}\nbig: {name: Big, price_usd: "9", upgrade_to: free}\n'
    )
    found = warnings(settings(METERGATE_CONFIG=str(tmp_path)), 1_800_000_000)
    assert any("big -> free -> big" in warning for warning in found)
    assert any("prices of providers" in warning and "gone" in warning for warning in found)


def test_models_that_a_key_may_name():
    known = settings()
    names = [
        "demo",
        "dem*",
        "*",
        "openai/anything",
        "openai/*",
        "opena*",
        "gpt-4o",
        "gpt-4o*",
        "claude-opus-4-20250514",
    ]
    unknown = ["gtp-5-tpyo", "nobody/x", "zzz*", "gpt-4o-mimi"]
    found = unknown_models(known.models, known.providers, known.prices, [*names, *unknown], 1_800_000_000)
    assert found == unknown


async def test_the_mail_server_is_asked_and_gets_no_mail():
    mailing = replace(settings(), smtp_from="billing@example.com")
    assert await check_mail(mailing) == []
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        (check,) = await check_mail(replace(mailing, smtp_host="127.0.0.1", smtp_port=port))
    assert (check.name, check.status) == ("mail", "ok")
    assert mailbox.taken == []
    (check,) = await check_mail(replace(mailing, smtp_host="127.0.0.1", smtp_port=port))
    assert check.status == "fail"
    assert check.mend
