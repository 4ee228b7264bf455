"""Requests through a whole gateway: the exact debit, what the provider is sent, what a key and a quota match."""

import asyncio
import gzip
import hashlib
import json
from math import ceil

from billing.money import parse_usd
from gateway.server.ids import GRANTED
from tests.gateway.conftest import chat
from tests.support.answering import (
    DONE,
    PROVIDER_KEY,
    WORDS,
    Gate,
    Provider,
    answer,
    saying,
    streaming,
    usage,
    usage_chunk,
)
from tests.support.gateways import INPUT, OUTPUT, ask, counted, fetch, refusal, spent_nano, the_event


async def test_a_chat_request_is_answered_and_debited_exactly(gateway):
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, chat())
    assert fetched.status == 200
    reported = fetched.json["usage"]
    event = await the_event(customer, reported["prompt_tokens"] * INPUT + reported["completion_tokens"] * OUTPUT)
    assert event["id"] == fetched.headers["x-request-id"]
    assert event["charge_usd"] == event["charged_usd"] == fetched.headers["x-metergate-charge-usd"]
    assert (event["input_tokens"], event["output_tokens"]) == (reported["prompt_tokens"], reported["completion_tokens"])
    assert (event["endpoint"], event["status"], event["stream"]) == ("/v1/chat/completions", 200, False)
    assert fetched.headers["x-metergate-balance-usd"] == (await customer.balance())["balance_usd"]


async def test_a_stream_is_passed_and_debited(gateway):
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, chat(stream=True))
    assert fetched.body.endswith(DONE)
    assert b'"usage":{' not in fetched.body.replace(b" ", b"")
    event = await the_event(customer)
    assert event["stream"] is True
    assert event["output_tokens"] > 0
    assert event["estimated"] is False


async def test_every_endpoint_meters(customer_of):
    provider = Provider(saying({"object": "list", "data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}}))
    customer = await customer_of(provider.serve)
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


async def test_a_body_that_needs_no_change_passes_byte_for_byte(customer_of):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    body = (
        b'{ "model" : "gpt-4o-mini",\n "messages":[{"role":"user","content":"\xc3\xa9 \\u00e9"}], "new_field": 1.50 }'
    )
    assert (await fetch(customer.post(data=body))).status == 200
    assert provider.sent[0].body == body
    await fetch(customer.post(data=gzip.compress(body), headers={"Content-Encoding": "gzip"}))
    assert provider.sent[1].body == body
    assert "Content-Encoding" not in provider.sent[1].headers


async def test_only_what_metering_needs_is_changed(customer_of):
    provider = Provider(streaming(*WORDS, usage_chunk(), DONE))
    customer = await customer_of(provider.serve)
    options = {"include_obfuscation": False}
    body = chat(model="openai/gpt-4o-mini", stream=True, stream_options=options, new_field={"a": [1.5, None]})
    await ask(customer, body)
    expected = {**body, "model": "gpt-4o-mini", "stream_options": {**options, "include_usage": True}}
    assert provider.sent[0].json == expected


async def test_no_credential_or_trace_of_the_client_goes_upstream(customer_of):
    provider = Provider(saying(answer(), x_request_id="req_theirs", set_cookie="a=b", openai_organization="org-ours"))
    customer = await customer_of(provider.serve)
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


async def test_an_elastic_hold_tells_the_provider_its_maximum(gateway_of):
    provider = Provider(saying(answer(reported=usage(10, 100))))
    gateway = await gateway_of(provider.serve)
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


async def test_text_whose_json_has_fewer_tokens_is_held_for_what_it_has(gateway_of):
    content = '" +#+#+#+#+#+' * 1000
    provider = Provider(saying(answer(reported=usage(5000, 16))))
    gateway = await gateway_of(provider.serve)
    short = await gateway.customer(f"{(4900 * INPUT + 16 * OUTPUT) / 1e9:.9f}")
    body = json.dumps(chat(content, model="gpt-4o-mini", max_tokens=16)).encode()
    billing = refusal(await fetch(short.post(data=body)), 402, "billing_required")["billing"]
    assert 5000 * INPUT + 16 * OUTPUT < parse_usd(billing["required_usd"]) < 6000 * INPUT < len(body) * INPUT
    enough = await gateway.customer(billing["required_usd"])
    assert (await fetch(enough.post(data=body))).status == 200
    assert parse_usd((await enough.balance())["balance_usd"]) >= 0


async def test_choices_count_in_the_hold_and_its_grant(gateway_of):
    provider = Provider(saying(answer()))
    gateway = await gateway_of(provider.serve)
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


async def test_a_client_s_own_maximum_is_the_hold(customer_of):
    gate = Gate(saying(answer()))
    provider = Provider(gate.serve)
    customer = await customer_of(provider.serve, "0.01")
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


async def test_without_strict_the_hold_is_an_estimate_that_bounds_nothing(customer_of):
    gate = Gate(saying(answer(reported=usage(100, 2000))))
    provider = Provider(gate.serve)
    customer = await customer_of(provider.serve, "0.001", strict=False)
    body = json.dumps(chat(model="gpt-4o-mini")).encode()
    running = asyncio.create_task(fetch(customer.post(data=body)))
    await gate.reached()
    assert parse_usd((await customer.balance())["held_usd"]) == ceil(len(body) / 4) * INPUT + 512 * OUTPUT
    gate.opened.set()
    assert (await running).status == 200
    assert provider.sent[0].body == body
    assert await spent_nano(customer, "0.001") == 100 * INPUT + 2000 * OUTPUT  # one request's overshoot
    refusal(await ask(customer), 402, "billing_required")


async def test_models_and_quotas_match_the_entry_however_it_is_asked_for(gateway_of):
    provider = Provider(saying(answer()))
    gateway = await gateway_of(provider.serve)
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


async def test_an_alias_is_sent_under_the_provider_s_name(customer_of):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    assert (await ask(customer, chat(model="fast"))).status == 200
    assert provider.sent[0].json["model"] == "gpt-4o-mini"
    event = await the_event(customer)
    assert (event["model"], event["provider"], event["provider_model"]) == ("fast", "openai", "gpt-4o-mini")
