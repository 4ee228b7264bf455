"""What the gateway answers by itself: models, the key's limits, one request's cost, health and metrics."""

import re
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from fractions import Fraction

import pytest

from billing.ledger.debits import Debit
from billing.ledger.reports import Reports
from billing.money import parse_usd
from billing.pricing import PriceRow, PriceTable
from billing.work import WELL_AFTER_S
from gateway.config.settings import ModelConfig, Settings
from gateway.endpoints.metrics_access import MetricsAddressTaken, listener_on, metrics_served
from gateway.metrics.registry import Metrics
from gateway.server.listening import address_of, bind
from tests.gateway.conftest import ADMIN_KEY, chat
from tests.support.answering import Gate, answer, saying
from tests.support.gateways import MOMENT, OUTPUT, ask, asking, assert_plain, fetch, refusal, spent_nano


def unpriced(settings: Settings) -> Settings:
    """Settings with a model that has no price."""
    return replace(settings, models={**settings.models, "unpriced": ModelConfig("unpriced", "openai", "gpt-unpriced")})


def priced(*listed: tuple[str, dict[str, str], dict[str, str]]) -> PriceTable:
    """A table: model of `openai`, prices per million and per unit."""
    rows = []
    for model, per_million, per_unit in listed:
        rates = [{name: parse_usd(usd) for name, usd in each.items()} for each in (per_million, per_unit)]
        provider, _, name = model.rpartition(":")
        rows.append(
            PriceRow(provider or "openai", name, date(2024, 1, 1), *rates, max_output_tokens=9, context_window=99)
        )
    return PriceTable(rows)


TEXT = {"input": "1", "output": "2"}
SMALL = priced(
    ("gpt-4o", TEXT, {}),
    ("gpt-4o-audio-preview", TEXT, {}),
    ("gpt-4o-realtime-preview", TEXT, {}),
    ("gpt-4o-mini-tts", TEXT, {}),
    ("gpt-4o-transcribe", TEXT, {}),
    ("gpt-4o-by-the-hour", {}, {"hour": "1"}),
    ("gpt-image-2", TEXT, {}),
    ("gpt-by-request", {}, {"request": "1"}),
    ("text-embedding-3-small", {"input": "1"}, {}),
    ("o9", TEXT, {}),
    ("local:*", TEXT, {}),
    ("local:demo-embedding", {"input": "1"}, {}),
    ("local:demo-moderation", {"input": "0"}, {}),
    ("local:demo-rerank", {}, {"search": "1"}),
)
LISTED = {
    "gpt-4o",
    "gpt-4o-audio-preview",
    "gpt-by-request",
    "text-embedding-3-small",
    "o9",
    "demo",
    "demo-embedding",
    "demo-moderation",
    "demo-rerank",
    "my-tts",
}


@pytest.mark.parametrize(
    ("headers", "listed"),
    [
        ({}, LISTED),
        ({"anthropic-version": "2023-06-01"}, {"demo"}),
        ({"x-goog-api-key": ""}, {"models/demo", "models/demo-embedding"}),
    ],
)
async def test_a_list_has_what_an_endpoint_of_its_api_takes_and_nothing_else(customer_of, headers, listed):
    """No sessions, pictures or sounds, which have no endpoint here; but what an operator has named is listed."""

    def small(settings):
        named = {"my-tts": ModelConfig("my-tts", "openai", "gpt-4o"), "hourly": ModelConfig("hourly", "openai", "h")}
        patterns = {
            name: model for name, model in settings.models.items() if name.endswith("*") or model.provider == "local"
        }
        return replace(settings, models={**patterns, **named}, prices=SMALL)

    customer = await customer_of(saying(answer()), change=small)
    if "x-goog-api-key" in headers:
        headers = {"x-goog-api-key": customer.key}
    seen = (await fetch(customer.get("/v1/models", headers=headers))).json
    names = [model.get("id") or model["name"] for model in seen.get("data") or seen["models"]]
    assert (set(names), len(names)) == (listed, len(listed))
    for name in LISTED:
        status = (await fetch(customer.get(f"/v1/models/{name}", headers=headers))).status
        assert status == (200 if {name, f"models/{name}"} & listed else 404)


async def test_models_are_those_that_the_key_may_use(gateway_of):
    few = ("gpt-4o", "gpt-4o-mini", "gpt-4o-mini-realtime-preview", "gpt-5")

    def with_few(settings):
        prices = PriceTable([row for row in settings.prices.rows if row.provider != "openai" or row.model in few])
        return replace(unpriced(settings), prices=prices)

    gateway = await gateway_of(saying(answer()), change=with_few)
    customer = await gateway.customer(models=["gpt-4o*", "unpriced", "claude-haiku"])
    listed = (await fetch(customer.get("/v1/models"))).json
    assert listed["object"] == "list"
    assert_plain(listed)
    by_id = {model["id"]: model for model in listed["data"]}
    # Neither what no provider serves (claude-haiku's has no key) nor what has no price.
    assert by_id.keys() == {"gpt-4o", "gpt-4o-mini"}
    mini = by_id["gpt-4o-mini"]
    assert mini["object"] == "model"
    assert mini["created"] == int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    assert (mini["owned_by"], mini["max_output_tokens"], mini["context_window"]) == ("openai", 16384, 128000)
    assert mini["context_length"] == 128000
    assert mini["pricing"]["usd_per_million"] == {"input": "0.15", "cached_input": "0.075", "output": "0.60"}
    for name in ("gpt-4o-mini", "openai/gpt-4o-mini"):
        assert (await fetch(customer.get(f"/v1/models/{name}"))).json == mini
    for name in (
        "demo",
        "claude-haiku",
        "unpriced",
        "openai/gpt-unpriced",
        "nothing",
        "openai/gpt-9",
        "a%00b",
        "x" * 500,
    ):
        refusal(await fetch(customer.get(f"/v1/models/{name}")), 404, "model_not_found")


async def test_codex_gets_descriptions_of_models_that_it_does_not_know(customer):
    """Those that it has descriptions of would lose the instructions that it was made for."""
    for path in ("/v1/models", "/openai/v1/models"):
        listed = (await fetch(customer.get(f"{path}?client_version=0.169.0"))).json
        by_slug = {model["slug"]: model for model in listed["models"]}
        assert "demo" in by_slug
        assert not {"gpt-5", "gpt-5.1-codex"} & by_slug.keys()
        assert {"display_name", "shell_type", "base_instructions", "truncation_policy"} <= by_slug["demo"].keys()


async def test_claude_code_finds_names_to_show(gateway, customer):
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        listed = (await fetch(customer.get("/v1/models?limit=1000", headers=headers))).json
        assert listed["data"]
        assert {model["display_name"] for model in listed["data"]} == {model["id"] for model in listed["data"]}
    hello = await fetch(gateway.session.head(f"{gateway.url}/api/hello"))
    assert (hello.status, hello.body) == (200, b"")


@pytest.mark.parametrize("path", ["/openai/models", "/openai/v1/models"])
async def test_azures_client_finds_the_same_models(gateway, customer, path):
    headers = {"api-key": customer.key}
    listed = await fetch(gateway.session.get(f"{gateway.url}{path}?api-version=2026-01-01", headers=headers))
    assert listed.json == (await fetch(customer.get("/v1/models"))).json
    one = await fetch(gateway.session.get(f"{gateway.url}{path}/demo", headers=headers))
    assert one.json["id"] == "demo"


async def test_gemini_lists_how_many_tokens_a_model_takes(customer):
    listed = (await fetch(customer.get("/v1beta/models"))).json
    limited = [model for model in listed["models"] if {"inputTokenLimit", "outputTokenLimit"} <= model.keys()]
    assert limited


async def test_no_answer_tells_what_software_serves_it(customer):
    for path in ("/healthz", "/v1/models", "/api/account/balance", "/api/nothing", "/nothing"):
        assert "Server" not in (await fetch(customer.get(path))).headers
    assert "Server" not in (await ask(customer, chat())).headers


async def test_a_key_sees_its_limits_and_what_is_left(gateway_of):
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve)
    quotas = [
        {"window": "month", "metric": "requests", "limit": 3},
        {"window": "total", "metric": "cost", "limit": "0.50", "model": "gpt-*"},
    ]
    customer = await gateway.customer(
        quotas=quotas,
        max_parallel_requests=4,
        tags={"team": "a"},
        account={"plan": "free", "quotas": [{"window": "hour", "metric": "output_tokens", "limit": 700}]},
    )
    fresh = (await fetch(customer.get("/v1/key"))).json
    assert fresh["id"] == customer.key_id
    assert fresh["prefix"] == customer.key[:10]
    assert customer.key not in str(fresh)
    assert (fresh["quotas"], fresh["max_parallel_requests"], fresh["tags"]) == (quotas, 4, {"team": "a"})
    assert_plain(fresh)
    assert [(w["subject"], w["window"], w["metric"], w["model"]) for w in fresh["windows"]] == [
        ("key", "month", "requests", None),
        ("key", "total", "cost", "gpt-*"),
        ("plan", "minute", "requests", None),
        ("plan", "day", "tokens", None),
        ("account", "hour", "output_tokens", None),
    ]
    assert [w["used"] for w in fresh["windows"]] == [0, "0.00", 0, 0, 0]
    assert fresh["windows"][1]["resets_at"] is None
    assert all(MOMENT.fullmatch(w["resets_at"]) for w in fresh["windows"] if w["window"] != "total")
    running = asking(customer, chat(model="gpt-4o-mini", max_tokens=100))
    await gate.reached()
    during = (await fetch(customer.get("/v1/key"))).json["windows"]
    assert (during[0]["used"], during[0]["remaining"]) == (1, 2)
    assert during[1]["used"] == "0.00"
    assert parse_usd(during[1]["held"]) > 100 * OUTPUT
    assert (during[4]["held"], during[4]["remaining"]) == (100, 600)
    gate.opened.set()
    assert (await running).status == 200
    spent = await spent_nano(customer)
    after = (await fetch(customer.get("/v1/key"))).json["windows"]
    assert (after[0]["used"], after[3]["used"], after[4]["used"]) == (1, 15, 5)
    assert parse_usd(after[1]["used"]) == spent
    assert parse_usd(after[1]["remaining"]) == parse_usd("0.50") - spent


async def test_keys_of_a_user_show_what_is_left_of_the_user_s_windows(gateway):
    """The windows were used by another key of the user; the refusal names the user's quota."""
    customer = await gateway.customer(user_id="ana", account={"plan": "enterprise"})
    asked = {"account_id": customer.account_id, "name": "b", "user_id": "ana"}
    created = await gateway.admin("POST", "/keys", asked)
    second = replace(customer, key_id=created["id"], key=created["key"])
    quotas = [
        {"window": "total", "metric": "tokens", "limit": 400},
        {"window": "minute", "metric": "requests", "limit": 9},
    ]
    await gateway.admin("PUT", f"/accounts/{customer.account_id}/users/ana/quotas", {"quotas": quotas})
    fetched = await ask(customer, chat(max_tokens=5))
    assert fetched.status == 200
    assert fetched.headers["x-ratelimit-remaining-requests"] == "8"
    windows = (await fetch(second.get("/v1/key"))).json["windows"]
    total, minute = [window for window in windows if window["subject"] == "user"]
    used = total["used"]
    assert used > 0
    assert (total["remaining"], minute["used"]) == (400 - used, 1)
    error = refusal(await ask(second, chat(max_tokens=400)), 429, "quota_exceeded")
    assert error["quota"]["subject"] == "user"
    assert error["message"].startswith("The user's quota of 400 tokens in total has")
    assert "all of the user's keys" in error["message"]


async def test_a_generation_is_the_usage_event(gateway):
    customer, stranger = await gateway.customer(tags={"team": "a"}), await gateway.customer()
    fetched = await ask(customer, chat(user="end-user-1"))
    await gateway.flush()
    path = f"/v1/generations/{fetched.headers['x-request-id']}"
    generation = (await fetch(customer.get(path))).json
    assert_plain(generation)
    (event,) = await customer.events()
    assert event.items() <= generation.items()
    assert (generation["tags"], generation["end_user"], generation["key_id"]) == (
        {"team": "a"},
        "end-user-1",
        customer.key_id,
    )
    assert sum(Fraction(line["amount_usd"]) for line in generation["lines"]) == Fraction(generation["charge_usd"])
    assert generation == (await fetch(customer.get(f"/api/account/usage/events/{event['id']}"))).json
    refusal(await fetch(stranger.get(path)), 404, "not_found")
    for wrong in ("nothing", "0" * 26, "a%00b", "%ff", "x" * 3000, "'; DROP TABLE usage_events"):
        refusal(await fetch(customer.get(f"/v1/generations/{wrong}")), 404, "not_found")
    scoped = await gateway.customer(scopes=["llm:proxy"])
    fetched = await fetch(scoped.get(path))
    assert refusal(fetched, 403, "insufficient_scope")["required_scope"] == "billing:read"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_generation_is_there_as_soon_as_its_answer_is(gateway, stream):
    """While its debit is still on the way to Postgres, as it is once it has come there."""
    customer, stranger = await gateway.customer(tags={"team": "a"}), await gateway.customer()
    count = "SELECT count(*) FROM usage_events WHERE account_id = $1"
    async with gateway.runtime.engine.outbox._writing:
        fetched = await ask(customer, chat(user="end-user-1", stream=stream))
        path = f"/v1/generations/{fetched.headers['x-request-id']}"
        at_once = await fetch(customer.get(path))
        assert at_once.status == 200, at_once.body
        refusal(await fetch(stranger.get(path)), 404, "not_found")
        assert await gateway.runtime.database.value(count, customer.account_id) == 0
    await gateway.flush()
    assert await gateway.runtime.database.value(count, customer.account_id) == 1
    assert (await fetch(customer.get(path))).json == at_once.json
    assert parse_usd(at_once.json["charged_usd"]) > 0
    assert at_once.json["lines"]
    assert at_once.json["tags"] == {"team": "a"}


async def test_a_key_reads_what_its_account_may_not_spend(gateway, customer):
    await gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})
    for path in ("/v1/models", "/v1/key", "/api/account/balance"):
        assert (await fetch(customer.get(path))).status == 200


async def test_a_loop_that_failed_makes_health_degraded_and_is_counted(make_gateway):
    gateway = await make_gateway()
    customer, loops = await gateway.customer(), gateway.runtime.engine.loops
    series = 'metergate_loop_failures_total{loop="sweep"}'
    shown = (await gateway.metrics()).decode()
    assert {"sweep", "lasting", "mail", "notices"} <= loops.tasks.keys()
    names = {*loops.tasks, "lease"}
    assert [name for name in names if f'metergate_loop_failures_total{{loop="{name}"}} 0.0' not in shown] == []
    loops.failed("sweep", ZeroDivisionError("a fault in the program"))
    found = await fetch(customer.get("/healthz"))
    assert (found.status, found.json["status"]) == (200, "degraded")
    assert "the sweep loop failed" in found.json["message"]
    assert f"{series} 1.0" in (await gateway.metrics()).decode()
    assert {"housekeeping", "metrics", "reconcile"} <= loops.tasks.keys()
    loops.clock = lambda: time.monotonic() + WELL_AFTER_S
    assert (await fetch(customer.get("/healthz"))).json["status"] == "ok"


async def test_health_readiness_and_metrics(make_gateway):
    gateway = await make_gateway()
    customer = await gateway.customer()
    await ask(customer, chat())
    await ask(customer, chat(model="nothing"))
    for path in ("/healthz", "/health"):
        assert (await fetch(gateway.session.get(gateway.url + path))).json == {"status": "ok", "message": ""}
    assert (await fetch(gateway.session.get(gateway.url + "/readyz"))).status == 200
    text = (await gateway.metrics()).decode()
    asked = 'endpoint="/v1/chat/completions",provider="local",status="200",stream="false"'
    assert f"metergate_requests_total{{{asked}}} 1.0" in text
    assert 'metergate_refusals_total{code="model_not_found"} 1.0' in text
    assert 'metergate_settlements_total{estimated="false",outcome="settled"} 1.0' in text
    assert "metergate_holds_live 0.0" in text
    (apart,) = re.findall(r"^metergate_store_clock_difference_seconds (.+)$", text, re.MULTILINE)
    assert float(apart) < 3600


async def test_the_public_port_shows_metrics_to_the_admin_alone(gateway, customer):
    await ask(customer, chat())
    strangers = (
        {},
        {"Authorization": f"Bearer {customer.key}"},
        {"X-Admin-Key": "x" * 24},
        {"Authorization": f"Bearer {ADMIN_KEY}x"},
    )
    for headers in strangers:
        fetched = await fetch(gateway.session.get(gateway.url + "/metrics", headers=headers))
        assert b"nano_usd" not in fetched.body
        assert (fetched.status, fetched.json["error"]["code"]) == (401, "invalid_api_key")
    for headers in ({"X-Admin-Key": ADMIN_KEY}, {"Authorization": f"Bearer {ADMIN_KEY}"}):
        fetched = await fetch(gateway.session.get(gateway.url + "/metrics", headers=headers))
        assert b"metergate_cost_nano_usd_total" in fetched.body


async def test_metrics_have_a_door_of_their_own(gateway):
    metrics = Metrics()
    debit = Debit(request_id="1", admitted_at_ms=0, outcome="settled", account_id="a", provider="openai", cost_nano=7)
    metrics.charged(debit, "settled", 0.001, "pro")
    with bind("127.0.0.1:0") as listener:
        url = f"http://{address_of(listener)}"
        async with metrics_served(metrics, listener):
            fetched = await fetch(gateway.session.get(f"{url}/metrics"))
            assert fetched.headers["Content-Type"].startswith("text/plain")
            assert b'metergate_cost_nano_usd_total{provider="openai"} 7.0' in fetched.body
            for path in ("/", "/v1/models", "/api/ping", "/metrics/x"):
                assert (await fetch(gateway.session.get(url + path))).status == 404


def test_an_address_for_metrics_that_is_in_use():
    notes = []
    with bind("127.0.0.1:0") as taken:
        address = address_of(taken)
        with listener_on(address, True, notes.append) as door:  # the one that `up` takes by itself
            assert door is None
        assert [address in note for note in notes] == [True]
        with (
            pytest.raises(MetricsAddressTaken, match=f"{address} is in use"),
            listener_on(address, False, notes.append),
        ):
            pass
    with listener_on(address, False, notes.append) as door:
        assert door is not None
        assert address_of(door) == address
    with listener_on(None, False, notes.append) as door:
        assert door is None
    assert len(notes) == 1


async def test_a_failure_of_ours_is_a_refusal(customer, monkeypatch):

    async def broken(*_):
        raise RuntimeError("a secret of Postgres")

    monkeypatch.setattr(Reports, "priced_event", broken)
    fetched = await fetch(customer.get("/v1/generations/" + "0" * 26))
    refusal(fetched, 503, "temporarily_unavailable")
