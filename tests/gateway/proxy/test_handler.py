"""Requests through a whole gateway: the exact debit, what the provider is sent, and what can't get in."""

import asyncio
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from fractions import Fraction
from math import ceil
from typing import Any

import pytest

from billing.holds.admission import Admissions, Decision
from billing.holds.decision import Reload
from billing.money import parse_usd
from billing.plans import Plan
from billing.prices import FACTOR_SCALE, PriceRow, PriceTable, Tier
from gateway.config.settings import ModelConfig, Settings
from gateway.proxy.missing_usage import MissingUsage
from gateway.server.metering_headers import GRANTED
from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway, chat
from tests.support.gateways import (
    BOUND_S,
    CACHED,
    DONE,
    INPUT,
    OUTPUT,
    PROVIDER_KEY,
    WORDS,
    Gate,
    Provider,
    answer,
    ask,
    assert_free,
    counted,
    fetch,
    head,
    raw,
    refusal,
    saying,
    spent_nano,
    streaming,
    the_event,
    until,
    usage,
    usage_chunk,
)

Upstream = Callable[[Handler], Any]
KIB, MIB = 1024, 1024 * 1024


async def test_a_chat_request_is_answered_and_debited_exactly(gateway: Gateway) -> None:
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, chat())
    assert fetched.status == 200
    said = fetched.json["usage"]
    event = await the_event(customer, said["prompt_tokens"] * INPUT + said["completion_tokens"] * OUTPUT)
    assert event["id"] == fetched.headers["x-request-id"]
    assert event["charged_usd"] == event["cost_usd"] == fetched.headers["x-metergate-cost-usd"]
    assert (event["input_tokens"], event["output_tokens"]) == (said["prompt_tokens"], said["completion_tokens"])
    assert (event["endpoint"], event["status"], event["stream"]) == ("/v1/chat/completions", 200, False)
    assert fetched.headers["x-metergate-balance-usd"] == (await customer.balance())["balance_usd"]


async def test_a_stream_is_passed_and_debited(gateway: Gateway) -> None:
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, chat(stream=True))
    assert fetched.body.endswith(DONE)
    assert b'"usage":{' not in fetched.body.replace(b" ", b"")
    event = await the_event(customer)
    assert event["stream"] is True
    assert event["output_tokens"] > 0
    assert event["estimated"] is False


async def test_every_endpoint_meters(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying({"object": "list", "data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    body = {"model": "text-embedding-3-small", "input": ["One.", "Two."]}
    assert (await ask(customer, body, path="/v1/embeddings")).status == 200
    provider.reply = saying({"object": "text_completion", "choices": [{"text": "Yes."}], "usage": usage(4, 2)})
    body = {"model": "gpt-4o-mini", "prompt": "Is it?", "max_tokens": 5}
    assert (await ask(customer, body, path="/v1/completions")).status == 200
    assert [sent.path for sent in provider.sent] == ["/v1/embeddings", "/v1/completions"]
    await spent_nano(customer)
    embedding, completion = await customer.events()
    assert (embedding["input_tokens"], embedding["charged_usd"]) == (7, "0.00000014")
    assert parse_usd(completion["charged_usd"]) == 4 * INPUT + 2 * OUTPUT


# What the provider is sent


async def test_a_body_that_needs_no_change_passes_byte_for_byte(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    body = (
        b'{ "model" : "gpt-4o-mini",\n "messages":[{"role":"user","content":"\xc3\xa9 \\u00e9"}], "new_field": 1.50 }'
    )
    assert (await fetch(customer.post(data=body))).status == 200
    assert provider.sent[0].body == body
    await fetch(customer.post(data=gzip.compress(body), headers={"Content-Encoding": "gzip"}))
    assert provider.sent[1].body == body
    assert "Content-Encoding" not in provider.sent[1].headers


async def test_only_what_metering_needs_is_changed(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    options = {"include_obfuscation": False}
    body = chat(model="openai/gpt-4o-mini", stream=True, stream_options=options, new_field={"a": [1.5, None]})
    await ask(customer, body)
    expected = {**body, "model": "gpt-4o-mini", "stream_options": {**options, "include_usage": True}}
    assert provider.sent[0].json == expected


async def test_no_credential_or_trace_of_the_client_goes_upstream(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    provider = Provider(saying(answer(), x_request_id="req_theirs", set_cookie="a=b", openai_organization="org-ours"))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    given = {
        "x-api-key": customer.key,
        "x-goog-api-key": customer.key,
        "Cookie": f"key={customer.key}",
        "OpenAI-Organization": "org-client",
        "OpenAI-Project": "proj-client",
        "X-Admin-Key": "mga_operator",
        "X-Service-Name": "service",
        "api-key": customer.key,
        "CF-Connecting-IP": "10.1.2.3",
        "Referer": "https://app.example/7",
        "Idempotency-Key": "order-7",
        "x-metergate-include-cost": "true",
        "x-metergate-anything": "1",
        "X-Request-Id": "client-1",
        "X-Forwarded-For": "10.1.2.3",
        "Accept-Encoding": "gzip, br",
        "OpenAI-Beta": "assistants=v2",
        "User-Agent": "client/1",
    }
    fetched = await fetch(customer.post(f"/v1/chat/completions?key={customer.key}", chat(model="fast"), headers=given))
    assert fetched.status == 200
    (sent,) = provider.sent
    assert (sent.path, sent.query) == ("/v1/chat/completions", "")
    assert sent.headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    assert sent.headers["Accept-Encoding"] == "identity"
    assert (sent.headers["OpenAI-Beta"], sent.headers["User-Agent"]) == ("assistants=v2", "client/1")
    assert customer.key not in str(sent.headers) + sent.body.decode()
    names = {name.lower() for name in sent.headers}
    assert not names & {"x-api-key", "x-goog-api-key", "cookie", "openai-organization", "openai-project"}
    assert not names & {"x-admin-key", "x-service-name", "api-key", "cf-connecting-ip", "referer"}
    account_and_key = f"{customer.account_id}\0order-7".encode()
    assert sent.headers["Idempotency-Key"] == hashlib.sha256(account_and_key).hexdigest()
    assert not any(name.startswith(("x-metergate-", "x-forwarded-")) or name == "x-request-id" for name in names)
    assert fetched.headers["x-upstream-request-id"] == "req_theirs"
    assert "Set-Cookie" not in fetched.headers
    assert "OpenAI-Organization" not in fetched.headers
    event = await the_event(customer)
    assert (event["client_request_id"], event["upstream_request_id"]) == ("client-1", "req_theirs")
    assert fetched.headers["x-request-id"] == event["id"]


async def test_an_elastic_hold_tells_the_provider_its_maximum(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer(said=usage(10, 100))))
    gateway = await make_gateway(await upstream(provider.serve))
    for path, field, own in (
        ("/v1/chat/completions", "max_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", "max_tokens", {"prompt": "Hi"}),
    ):
        body = json.dumps({"model": "gpt-4o-mini", **own}).encode()
        customer = await gateway.customer("0.0001")
        fetched = await fetch(customer.post(path, data=body))
        assert fetched.status == 200
        granted = (100_000 - len(body) * INPUT) // OUTPUT
        assert fetched.headers[GRANTED] == str(granted)
        assert provider.sent[-1].json == {**json.loads(body), field: granted}
        rich = await gateway.customer("5.00")
        fetched = await fetch(rich.post(path, data=body))
        assert (fetched.status, GRANTED in fetched.headers) == (200, False)
        assert provider.sent[-1].body == body  # the whole of the model's own maximum is covered: nothing to say
        least_nano = counted(body) * INPUT + 16 * OUTPUT  # the bytes don't fit: the tokens do, just
        poor = await gateway.customer(f"{(least_nano - 1) / 1e9:.9f}")
        refusal(await fetch(poor.post(path, data=body)), 402, "billing_required")
        enough = await gateway.customer(f"{least_nano / 1e9:.9f}")
        assert (await fetch(enough.post(path, data=body))).status == 200
        assert provider.sent[-1].json[field] == 16
        windowed = await gateway.customer(
            quotas=[{"window": "hour", "metric": "tokens", "limit": len(body) + 40, "model": "gpt-4o*"}]
        )
        assert (await fetch(windowed.post(path, data=body))).status == 200
        assert provider.sent[-1].json[field] == 40


async def test_text_whose_json_has_fewer_tokens_is_held_for_what_it_has(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    content = '" +#+#+#+#+#+' * 1000
    provider = Provider(saying(answer(said=usage(5000, 16))))
    gateway = await make_gateway(await upstream(provider.serve))
    short = await gateway.customer(f"{(4900 * INPUT + 16 * OUTPUT) / 1e9:.9f}")
    body = json.dumps(chat(content, model="gpt-4o-mini", max_tokens=16)).encode()
    billing = refusal(await fetch(short.post(data=body)), 402, "billing_required")["billing"]
    assert 5000 * INPUT + 16 * OUTPUT < parse_usd(billing["required_usd"]) < 6000 * INPUT < len(body) * INPUT
    enough = await gateway.customer(billing["required_usd"])
    assert (await fetch(enough.post(data=body))).status == 200
    assert parse_usd((await enough.balance())["balance_usd"]) >= 0


async def test_choices_count_in_the_hold_and_its_grant(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    for path, fields, choices in (
        ("/v1/chat/completions", {"n": 4, "messages": []}, 4),
        ("/v1/completions", {"n": 2, "best_of": 5, "prompt": "Hi"}, 5),
        ("/v1/completions", {"n": 2, "prompt": ["Hi", "Ho", "Ha"]}, 6),
    ):
        body = json.dumps({"model": "gpt-4o-mini", **fields}).encode()
        customer = await gateway.customer("0.001")
        await fetch(customer.post(path, data=body))
        granted = (1_000_000 - len(body) * choices * INPUT) // (OUTPUT * choices)
        assert provider.sent[-1].json["max_tokens"] == granted


async def test_a_client_s_own_maximum_is_the_hold(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gate = Gate(saying(answer()))
    provider = Provider(gate.serve)
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer("0.01")
    refused = await ask(customer, chat(model="gpt-4o-mini", max_tokens=20_000))
    billing = refusal(refused, 402, "billing_required")["billing"]
    assert parse_usd(billing["required_usd"]) > 20_000 * OUTPUT > parse_usd("0.01")
    body = json.dumps(chat(model="gpt-4o-mini", max_tokens=1000)).encode()
    running = asyncio.create_task(fetch(customer.post(data=body)))
    await gate.reached()
    held = len(body) * INPUT + 1000 * OUTPUT
    assert parse_usd((await customer.balance())["held_usd"]) == held
    gate.opened.set()
    assert (await running).status == 200
    assert provider.sent[-1].body == body


async def test_without_strict_the_hold_is_an_estimate_that_bounds_nothing(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    gate = Gate(saying(answer(said=usage(100, 2000))))
    provider = Provider(gate.serve)
    gateway = await make_gateway(await upstream(provider.serve), strict=False)
    customer = await gateway.customer("0.001")
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    running = asyncio.create_task(fetch(customer.post(data=body)))
    await gate.reached()
    assert parse_usd((await customer.balance())["held_usd"]) == ceil(len(body) / 4) * INPUT + 512 * OUTPUT
    gate.opened.set()
    assert (await running).status == 200
    assert provider.sent[0].body == body
    assert await spent_nano(customer, "0.001") == 100 * INPUT + 2000 * OUTPUT  # one request's overshoot
    refusal(await ask(customer), 402, "billing_required")


# What it costs


def priced(
    row: PriceRow, markup_scaled: int = 0, plan_markup_scaled: int = 0, **model: Any
) -> Callable[[Settings], Settings]:
    """A model `odd` with this price."""

    def change(settings: Settings) -> Settings:
        models = {**settings.models, "odd": ModelConfig("odd", "openai", "odd-1", markup_scaled=markup_scaled, **model)}
        plan = Plan("marked", "Marked", 0, markup_scaled=plan_markup_scaled)
        prices = PriceTable([*settings.prices.rows, row])
        return replace(settings, models=models, prices=prices, plans={**settings.plans, "marked": plan})

    return change


ODD = PriceRow(
    "openai",
    "odd-1",
    date(2024, 1, 1),
    {
        "input": 37_512_345,
        "cached_input": 1,
        "cache_write": 46_890_431,
        "output": 333_333_333,
        "reasoning": 444_444_443,
    },
    {"request": 7},
    tiers=(Tier(1000, {"input": 75_024_691, "output": 500_000_003}),),
    multipliers={"priority": 1_700_000_001, "flex": 500_000_000},
    max_output_tokens=1000,
)


@pytest.mark.parametrize(("markup", "plan_markup"), [(0, 0), (0, 12_345_678_901), (33_333_333_333, 5)])
async def test_a_charge_is_exact_and_rounded_up_once(
    make_gateway: MakeGateway, upstream: Upstream, markup: int, plan_markup: int
) -> None:
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), change=priced(ODD, markup, plan_markup))
    customer = await gateway.customer("5.00", account={"plan": "marked"})
    factor = 1 + Fraction(markup or plan_markup, 100 * FACTOR_SCALE)
    spent = 0
    for tier, multiplier in ((None, 1), ("priority", Fraction(1_700_000_001, 10**9)), ("flex", Fraction(1, 2))):
        for prompt, rates in ((999, ODD.per_million), (1001, {**ODD.per_million, **ODD.tiers[0].per_million})):
            details = {
                "prompt_tokens_details": {"cached_tokens": 333, "cache_write_tokens": 111},
                "completion_tokens_details": {"reasoning_tokens": 77},
            }
            provider.reply = saying(answer(said=usage(prompt, 501, **details), service_tier=tier))
            fetched = await ask(customer, chat("word " * 300, model="odd"))
            counts = {"cached_input": 333, "cache_write": 111, "input": prompt - 444, "output": 424, "reasoning": 77}
            exact = sum(Fraction(rates[name] * count, 10**6) for name, count in counts.items())
            cost = (exact + 7) * multiplier
            charged = ceil(cost * factor)
            assert parse_usd(fetched.headers["x-metergate-cost-usd"]) == charged
            spent += charged
            assert await spent_nano(customer) == spent
            event = (await customer.events())[-1]
            assert parse_usd(event["cost_usd"]) == ceil(cost)
            assert (event["cached_input_tokens"], event["cache_write_tokens"]) == (333, 111)
            assert event["reasoning_tokens"] == 77
            lines = (await fetch(customer.get(f"/v1/generations/{event['id']}"))).json["lines"]
            assert sum(Fraction(line["amount_usd"]) for line in lines) == cost / 10**9
            assert {line["class"]: line["quantity"] for line in lines} == {**counts, "request": 1}


async def test_cached_tokens_have_their_own_price(make_gateway: MakeGateway, upstream: Upstream) -> None:
    said = usage(100, 10, prompt_tokens_details={"cached_tokens": 60})
    gateway = await make_gateway(await upstream(saying(answer(said=said))))
    customer = await gateway.customer()
    await ask(customer)
    await the_event(customer, 40 * INPUT + 60 * CACHED + 10 * OUTPUT)


async def test_a_tier_without_a_price_is_refused(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer(service_tier="default")))
    gateway = await make_gateway(await upstream(provider.serve), change=priced(ODD))
    customer = await gateway.customer()
    refusal(await ask(customer, chat(model="gpt-4o-mini", service_tier="priority")), 400, "model_not_priced")
    assert (await ask(customer, chat(model="odd", service_tier="priority"))).status == 200
    assert len(provider.sent) == 1


async def test_usage_above_the_hold_is_charged_as_reported(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gateway = await make_gateway(await upstream(saying(answer(said=usage(200, 300)))))
    customer = await gateway.customer("0.001")
    assert (await ask(customer, chat(model="gpt-4o-mini", max_tokens=20))).status == 200
    assert await spent_nano(customer, "0.001") == 200 * INPUT + 300 * OUTPUT
    shown = await gateway.metrics()
    assert b"metergate_hold_exceeded_total 1.0" in shown


async def test_a_credit_limit_lets_the_balance_go_below_zero(make_gateway: MakeGateway, upstream: Upstream) -> None:
    gateway = await make_gateway(await upstream(saying(answer(said=usage(10, 1000)))))
    customer = await gateway.customer("0", account={"credit_limit_usd": "0.001"})
    body = chat(model="gpt-4o-mini", max_tokens=1000)
    fetched = await ask(customer, body)
    assert fetched.status == 200
    assert fetched.headers["x-metergate-balance-usd"] == "-0.0006015"
    billing = refusal(await ask(customer, body), 402, "billing_required")["billing"]
    assert billing["balance_usd"] == "-0.0006015"
    assert await spent_nano(customer, "0.00") == 601_500


# What a key and a quota match


async def test_models_and_quotas_match_the_entry_however_it_is_asked_for(
    make_gateway: MakeGateway, upstream: Upstream
) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer(models=["gpt-4o-mini", "demo*"])
    for model, status in (
        ("gpt-4o-mini", 200),
        ("openai/gpt-4o-mini", 200),
        ("fast", 403),  # an entry of its own
        ("openai/gpt-4o", 403),
        ("local/demo", 200),
        ("local/other", 403),
    ):
        assert (await ask(customer, chat(model=model))).status == status, model
    assert [sent.json["model"] for sent in provider.sent] == ["gpt-4o-mini", "gpt-4o-mini"]
    quotas = [
        {"window": "day", "metric": "requests", "limit": 2, "model": "gpt-4o-mini"},
        {"window": "day", "metric": "requests", "limit": 3, "model": "gpt-4o*"},
    ]
    customer = await gateway.customer(quotas=quotas)
    for model, status in (
        ("gpt-4o-mini", 200),
        ("openai/gpt-4o-mini", 200),
        ("fast", 200),
        ("openai/gpt-4o-mini", 429),
        ("gpt-4o", 200),
        ("gpt-4o", 429),
        ("fast", 200),
    ):
        fetched = await ask(customer, chat(model=model))
        assert fetched.status == status, model
        if status == 429:
            named = refusal(fetched, 429, "quota_exceeded")["quota"]
            assert named["model"] == ("gpt-4o*" if model == "gpt-4o" else named["model"])


async def test_an_alias_is_sent_under_the_provider_s_name(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    assert (await ask(customer, chat(model="fast"))).status == 200
    assert provider.sent[0].json["model"] == "gpt-4o-mini"
    event = await the_event(customer)
    assert (event["model"], event["provider"], event["provider_model"]) == ("fast", "openai", "gpt-4o-mini")


# What changes takes effect


async def test_a_revoked_key_is_dead_on_every_gateway(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    for change in ("DELETE", "PATCH"):
        customer = await first.customer()
        elsewhere = replace(customer, gateway=second)
        assert [(await ask(at, chat())).status for at in (customer, elsewhere)] == [200, 200]
        if change == "DELETE":
            await first.admin("DELETE", f"/keys/{customer.key_id}", status=204)
        else:
            await first.admin("PATCH", f"/keys/{customer.key_id}", {"models": ["nothing"]})
        status = 401 if change == "DELETE" else 403
        assert (await ask(customer, chat())).status == status

        async def refused(at: Customer = elsewhere, status: int = status) -> bool:
            return (await ask(at, chat())).status == status

        await until(refused)  # told: by itself the other one would believe its memory for principal_cache_s


async def test_a_suspended_account_is_refused_on_every_gateway(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    customer = await first.customer()
    elsewhere = replace(customer, gateway=second)
    assert [(await ask(at, chat())).status for at in (customer, elsewhere)] == [200, 200]
    await first.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})
    refusal(await ask(customer, chat()), 402, "billing_required")

    async def refused() -> bool:
        return (await ask(elsewhere, chat())).status == 402

    await until(refused)


async def test_changes_in_the_midst_of_traffic_refuse_nobody(make_gateway: MakeGateway) -> None:
    first, second = await make_gateway(), await make_gateway()
    customer = await first.customer()
    elsewhere = replace(customer, gateway=second)
    changed = asyncio.Event()

    async def traffic(at: Customer) -> list[int]:
        statuses = []
        while not changed.is_set():
            statuses.append((await ask(at, chat(max_tokens=1))).status)
        return statuses

    running = [asyncio.create_task(traffic(at)) for at in (customer, elsewhere) * 2]
    for number in range(10):
        quotas = [{"window": "day", "metric": "requests", "limit": 10_000 + number}]
        await first.admin("PATCH", f"/keys/{customer.key_id}", {"quotas": quotas if number % 2 else []})
        await first.admin("PUT", f"/accounts/{customer.account_id}/quotas", {"quotas": quotas})
    changed.set()
    statuses = [status for each in await asyncio.gather(*running) for status in each]
    assert set(statuses) == {200}
    await spent_nano(customer)
    await second.flush()
    assert (await fetch(customer.get("/v1/key"))).json["windows"][0]["used"] == len(statuses)


async def test_a_principal_that_changes_again_and_again_is_read_until_it_rests(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = await gateway.customer()
    admit, asked = Admissions.admit, 0

    async def changed_meanwhile(*arguments: Any) -> Decision:
        nonlocal asked
        asked += 1
        return Reload() if asked < 12 else await admit(*arguments)

    monkeypatch.setattr(Admissions, "admit", changed_meanwhile)
    assert (await ask(customer, chat())).status == 200
    assert asked == 12


@pytest.mark.parametrize("wait_ms", [0, 100])
async def test_a_principal_that_never_rests_is_given_up(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, wait_ms: int
) -> None:
    gateway = await make_gateway(admission_wait_ms=wait_ms)
    customer = await gateway.customer()
    asked = 0

    async def always_changed(*_: Any) -> Reload:
        nonlocal asked
        asked += 1
        return Reload()

    monkeypatch.setattr(Admissions, "admit", always_changed)
    refusal(await ask(customer, chat()), 503, "temporarily_unavailable")
    assert 3 <= asked < 12


# What can't get in


BAD_BODIES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", None),
    "half": (b'{"model": "demo", "messages": [', None),
    "not an object": (b'["demo"]', None),
    "a number": (b"1", None),
    "NaN": (b'{"model":"demo","messages":[],"x":NaN}', None),
    "not UTF-8": (b'{"model":"demo","messages":[],"user":"\xff"}', None),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"demo","messages":[]}', None),
    "too deep": (b'{"model":"demo","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    "twice": (b'{"model":"demo","messages":[],"max_tokens":1,"max_tokens":100000}', "max_tokens"),
    "twice, escaped": (b'{"model":"demo","messages":[],"max_tokens":1,"max\\u005ftokens":9}', "max_tokens"),
    "in capitals": (b'{"model":"demo","messages":[],"MAX_TOKENS":1}', "max_tokens"),
    "no model": (b'{"messages":[]}', "model"),
    "model is null": (b'{"model":null,"messages":[]}', "model"),
    "model is a number": (b'{"model":1,"messages":[]}', "model"),
    "model is empty": (b'{"model":"","messages":[]}', "model"),
    "model is long": (b'{"model":"' + b"m" * 201 + b'","messages":[]}', "model"),
    "no messages": (b'{"model":"demo"}', "messages"),
    "messages is a string": (b'{"model":"demo","messages":"Hi"}', "messages"),
    "messages of numbers": (b'{"model":"demo","messages":[{"a":[]},1]}', "messages"),
    "stream is a string": (b'{"model":"demo","messages":[],"stream":"yes"}', "stream"),
    "n is zero": (b'{"model":"demo","messages":[],"n":0}', "n"),
    "n is a string": (b'{"model":"demo","messages":[],"n":"2"}', "n"),
    "n is a fraction": (b'{"model":"demo","messages":[],"n":1.5}', "n"),
    "n is huge": (b'{"model":"demo","messages":[],"n":1000000}', "n"),
    "maximum below zero": (b'{"model":"demo","messages":[],"max_tokens":-1}', "max_tokens"),
    "maximum beyond all": (b'{"model":"demo","messages":[],"max_tokens":99999999999999999999}', "max_tokens"),
    "options are a list": (b'{"model":"demo","messages":[],"stream":true,"stream_options":[]}', "stream_options"),
}


async def test_bad_bodies_are_refused_and_name_their_fault(gateway: Gateway) -> None:
    customer = await gateway.customer()
    for what, (body, param) in BAD_BODIES.items():
        fetched = await fetch(customer.post(data=body))
        error = refusal(fetched, 400, "invalid_request_error")
        assert error["param"] == param, what
        assert fetched.headers["x-should-retry"] == "false"
    await assert_free(customer)


async def test_odd_but_lawful_bodies_harm_nothing(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    customer = await gateway.customer()
    for body in (
        b'{"model":"local/a\\u0000b","messages":[]}',
        b'{"model":"local/a\\nb","messages":[]}',
        b'{"model":"demo","messages":[],"user":"\\u0000"}',
        b'{"model":"demo","messages":[],"safety_identifier":"' + b"s" * 5000 + b'"}',
        b'{"model":"demo","messages":[{"role":"user","content":"\\ud83d"}],"max_tokens":1}',
        b'{"model":"\\ud83d","messages":[]}',
        b'{"model":"demo","messages":[{}],"stream":true,"stream_options":null}',
        b'{"model":"demo","messages":[null, 5]}',
    ):
        fetched = await fetch(customer.post(data=body))
        assert fetched.status in (200, 400, 404), (body, fetched.body)
        if fetched.status != 200:
            fetched.json["error"]
    await spent_nano(customer)
    assert "failed" not in caplog.text
    assert "set aside" not in caplog.text


async def test_counts_beyond_all_bounds_are_the_client_s_fault(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    customer = await gateway.customer()
    prompts = {"model": "demo", "prompt": ["a"] * 100_000, "n": 100}
    refusal(await ask(customer, prompts, path="/v1/completions"), 400, "invalid_request_error")
    many = chat(max_tokens=2**31 - 1, n=128, model="demo")
    refusal(await ask(customer, many), 402, "billing_required")
    assert "Traceback" not in caplog.text


async def test_a_body_above_the_bound_is_refused_before_it_is_read(gateway: Gateway) -> None:
    customer = await gateway.customer()
    announced = head(customer, f"Content-Length: {40 * MIB}", "Connection: close")
    said = await raw(gateway, announced, b"x" * KIB)  # the rest never comes
    assert said.status == 413
    assert json.loads(said.body)["error"]["code"] == "request_too_large"


async def test_a_chunked_body_above_the_bound_is_refused(make_gateway: MakeGateway) -> None:
    gateway = await make_gateway(change=lambda settings: replace(settings, proxy_max_body_bytes=256 * KIB))
    customer = await gateway.customer()

    async def pieces(length: int) -> Any:
        for _ in range(length // (64 * KIB)):
            yield b" " * 64 * KIB

    refusal(await fetch(customer.post(data=pieces(40 * MIB))), 413, "request_too_large")
    refusal(await fetch(customer.post(data=pieces(256 * KIB))), 400, "invalid_request_error")
    refusal(await fetch(customer.post(data=b" " * (256 * KIB + 1))), 413, "request_too_large")
    refusal(await fetch(customer.post(data=b" " * 256 * KIB)), 400, "invalid_request_error")


async def test_compressed_bodies_are_bounded_after_decoding(make_gateway: MakeGateway) -> None:
    gateway = await make_gateway(change=lambda settings: replace(settings, proxy_max_body_bytes=MIB))
    customer = await gateway.customer()
    body = json.dumps(chat("word " * 1000)).encode()
    for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        fetched = await fetch(customer.post(data=packed, headers={"Content-Encoding": encoding}))
        assert fetched.status == 200
    bomb = gzip.compress(b'{"model":"demo","messages":[],"x":"' + b"0" * 64 * MIB)
    assert len(bomb) < MIB
    refusal(await fetch(customer.post(data=bomb, headers={"Content-Encoding": "gzip"})), 413, "request_too_large")
    for spoilt in (b"not gzip at all", gzip.compress(body)[:-20], gzip.compress(body)[:30]):
        fetched = await fetch(customer.post(data=spoilt, headers={"Content-Encoding": "gzip"}))
        refusal(fetched, 400, "invalid_request_error")


async def test_header_injection_gets_nowhere(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    length = f"Content-Length: {len(body)}"
    for lines in (
        ("X-Request-Id: a\rX-Evil: 1", length),
        ("X-Request-Id: a\nX-Evil: 1", length),
        ("X-Request-Id: a\0b", length),
        ("X-Evil : 1", length),
        (length, f"Content-Length: {len(body) + 1}"),
        (length, "Transfer-Encoding: chunked"),
        ("Content-Length: +5",),
        ("Transfer-Encoding: chunked, identity",),
    ):
        said = await raw(gateway, head(customer, "Connection: close", *lines) + body)
        assert said.status in (400, 0) or all("X-Evil" not in sent.headers for sent in provider.sent), lines
        assert b"Traceback" not in said.data
        assert customer.key.encode() not in said.data
    smuggled = head(customer, "Connection: close", length) + body
    assert (await raw(gateway, smuggled)).status == 200


async def test_header_bytes_that_are_not_text_are_survived(
    make_gateway: MakeGateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await make_gateway(await upstream(saying(answer())))
    customer = await gateway.customer()
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    lines = ("X-Request-Id: caf\xe9\xff", "User-Agent: M\xfcller", "Connection: close", f"Content-Length: {len(body)}")
    said = await raw(gateway, head(customer, *lines) + body)
    assert said.status == 200
    event = await the_event(customer)
    assert event["client_request_id"] == "caf??"
    assert "Traceback" not in caplog.text


async def test_a_client_that_leaves_while_it_uploads(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    customer = await gateway.customer()
    where = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(where[0], int(where[1]))
    writer.write(head(customer, "Content-Length: 1000") + b'{"model": ')
    await writer.drain()
    writer.close()
    assert (await ask(customer, chat())).status == 200
    await the_event(customer)
    assert "Traceback" not in caplog.text


async def test_a_body_that_does_not_come_is_not_waited_for(make_gateway: MakeGateway) -> None:
    gateway = await make_gateway(upload_timeout_s=0.05)
    customer = await gateway.customer()
    where = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(where[0], int(where[1]))
    writer.write(head(customer, "Content-Length: 1000") + b'{"model": ')
    async with asyncio.timeout(BOUND_S):
        said = await reader.readuntil(b"}}")
    writer.close()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive within 0.05 s" in said
    assert b'"code":"invalid_request_error"' in said


async def test_a_failure_of_ours_says_nothing_of_itself(
    make_gateway: MakeGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await make_gateway(await upstream(streaming(*WORDS, DONE)))
    customer = await gateway.customer()

    async def broken(*_: Any) -> None:
        raise RuntimeError("a secret of Redis")

    with monkeypatch.context() as patched:
        patched.setattr(Admissions, "admit", broken)
        fetched = await ask(customer)
        refusal(fetched, 503, "temporarily_unavailable")
    await assert_free(customer)
    with monkeypatch.context() as patched:
        patched.setattr(MissingUsage, "guess", broken)
        fetched = await ask(customer, chat(model="gpt-4o-mini", stream=True))
    assert (fetched.status, fetched.cut) == (200, True)
    assert b"temporarily" not in fetched.body
