"""Anthropic's API through a whole gateway: served, metered, refused and streamed."""

import json
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from billing.money import parse_usd
from billing.quotas import Metric, Quota, Window
from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.conftest import Change, Customer, GatewayOf, chat
from tests.gateway.dialects.agents.recorded import recorded
from tests.gateway.dialects.anthropic.bodies import answer, event, message, stream
from tests.support.answering import PROVIDER_KEY, Provider, saying, streaming
from tests.support.answering import answer as chat_answer
from tests.support.gateways import Fetched, ask, assert_free, assert_tells_no_secret, fetch, spent_nano, the_event

MESSAGES = "/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
# claude-haiku-4-5, in nano-USD a token.
HAIKU = {"input": 1_000, "cached_input": 100, "cache_write": 1_250, "cache_write_1h": 2_000, "output": 5_000}
COST = (
    10 * HAIKU["input"]
    + 500 * HAIKU["cached_input"]
    + 20 * HAIKU["cache_write"]
    + 10 * HAIKU["cache_write_1h"]
    + 15 * HAIKU["output"]
)


def scripted(url: str, change: Change | None = None) -> Change:
    """Settings whose provider `anthropic` is here."""

    def with_provider(settings: Settings) -> Settings:
        own = ProviderConfig("anthropic", "anthropic", url.removesuffix("/v1"), Secret(PROVIDER_KEY))
        settings = replace(settings, providers={**settings.providers, "anthropic": own})
        return settings if change is None else change(settings)

    return with_provider


@pytest.fixture
def gateway_of(gateway_of: GatewayOf) -> GatewayOf:
    """Gateways whose provider `anthropic` is scripted."""
    return partial(gateway_of, at=scripted)


async def send(customer: Customer, body: bytes | None = None, path: str = MESSAGES, **options: Any) -> Fetched:
    headers = {"x-api-key": customer.key, **VERSION, **options.pop("headers", {})}
    body = message() if body is None else body
    return await fetch(
        customer.gateway.session.post(customer.gateway.url + path, data=body, headers=headers, **options)
    )


def fault(fetched: Fetched, status: int, type_: str, code: str) -> dict[str, Any]:
    """The error in Anthropic's envelope."""
    assert fetched.status == status, fetched.body
    assert fetched.json.keys() == {"type", "error", "request_id"}
    assert_tells_no_secret(fetched.body.decode() + str(fetched.headers))
    error: dict[str, Any] = fetched.json["error"]
    assert (fetched.json["type"], error["type"], error["code"]) == ("error", type_, code)
    assert fetched.json["request_id"] == fetched.headers["request-id"] == fetched.headers["x-request-id"]
    return error


@pytest.mark.parametrize("header", ["x-api-key", "Authorization"])
async def test_a_message_is_served_and_metered(customer_of, header):
    provider = Provider(saying(answer(), request_id="req_upstream"))
    customer = await customer_of(provider.serve)
    key = customer.key if header == "x-api-key" else f"Bearer {customer.key}"
    beta = {"anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
    url = f"{customer.gateway.url}{MESSAGES}?beta=true"
    asked = customer.gateway.session.post(url, data=message(), headers={header: key, **VERSION, **beta})
    fetched = await fetch(asked)
    assert (fetched.status, fetched.json) == (200, answer())
    assert fetched.headers["request-id"] == fetched.headers["x-request-id"]
    assert fetched.headers["x-upstream-request-id"] == "req_upstream"
    (sent,) = provider.sent
    assert (sent.path, sent.query, sent.body) == (MESSAGES, "beta=true", message())
    assert sent.headers["x-api-key"] == PROVIDER_KEY
    assert {name: sent.headers[name] for name in (*VERSION, *beta)} == {**VERSION, **beta}
    assert customer.key not in str(sent.headers)
    found = await the_event(customer, COST)
    assert (found["endpoint"], found["provider"], found["estimated"]) == (MESSAGES, "anthropic", False)
    assert (found["input_tokens"], found["cached_input_tokens"], found["output_tokens"]) == (540, 500, 15)


@pytest.mark.parametrize("cut", ["events", "whole", "bytes"])
async def test_a_stream_passes_byte_for_byte(customer_of, cut):
    events = stream("Hello", " there!")
    text = b"".join(events)
    pieces = {"events": events, "whole": (text,), "bytes": tuple(bytes([byte]) for byte in text)}[cut]
    customer = await customer_of(streaming(*pieces))
    fetched = await send(customer, message(stream=True))
    assert (fetched.status, fetched.body, fetched.cut) == (200, text, False)
    assert fetched.headers["request-id"] == fetched.headers["x-request-id"]
    assert not (await the_event(customer, COST))["estimated"]


async def test_a_stream_that_breaks_off_costs_what_it_reported_and_wrote(customer_of):
    customer = await customer_of(streaming(*stream("Hello", " there!")[:-2], cut=True))
    assert (await send(customer, message(stream=True))).cut
    found = await the_event(customer)
    assert (found["status"], found["estimated"], found["input_tokens"]) == (502, True, 540)
    assert 2 <= found["output_tokens"] <= 15


async def test_an_error_after_output_is_charged_and_before_it_is_free(customer_of):
    broken = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    customer = await customer_of(streaming(*stream("Hello")[:4], broken))
    fetched = await send(customer, message(stream=True))
    assert fetched.body.endswith(broken)
    assert (await the_event(customer))["input_tokens"] == 540
    customer = await customer_of(streaming(broken))
    assert (await send(customer, message(stream=True))).body == broken
    assert await spent_nano(customer) == 0


async def test_counting_is_free_and_counts_as_a_request(customer_of):
    provider = Provider(saying({"input_tokens": 2_095}))
    customer = await customer_of(provider.serve)
    fetched = await send(customer, path="/v1/messages/count_tokens")
    assert (fetched.status, fetched.json) == (200, {"input_tokens": 2_095})
    assert provider.sent[0].path == "/v1/messages/count_tokens"
    found = await the_event(customer, 0)
    assert (found["total_tokens"], found["endpoint"]) == (0, "/v1/messages/count_tokens")
    fault(
        await send(customer, path="/v1/messages/count_tokens", headers={"x-api-key": "mg_no"}),
        401,
        "authentication_error",
        "invalid_api_key",
    )


async def test_refusals_are_in_anthropic_s_envelope(gateway_of):
    provider = Provider(saying(answer()))
    gateway = await gateway_of(provider.serve)
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.000000001")
    fault(await send(customer, headers={"x-api-key": "mg_wrong"}), 401, "authentication_error", "invalid_api_key")
    fault(await send(customer, b"{}"), 400, "invalid_request_error", "invalid_request_error")
    fault(await send(customer, message(model="nothing")), 404, "not_found_error", "model_not_found")
    fault(await send(customer, path="/v1/messages/batches"), 404, "not_found_error", "not_found")
    billing = fault(await send(poor), 402, "billing_error", "billing_required")["billing"]
    assert "setup_url" in billing
    beta = {"anthropic-beta": "effort-2025-11-24,managed-agents-2026-04-01,dreaming-2026-04-21"}
    error = fault(await send(customer, headers=beta), 400, "invalid_request_error", "invalid_request_error")
    for name in ("managed-agents-2026-04-01", "dreaming-2026-04-21"):
        assert re.search(f"capability_rejected: beta_header:{name}[^A-Za-z0-9_:.-]", error["message"])
    narrow = await gateway.customer("5.00", models=["gpt-4o-mini"])
    fault(await send(narrow), 403, "permission_error", "model_not_allowed")
    assert provider.sent == []
    await assert_free(customer)


async def test_a_second_header_of_betas_is_read(customer_of):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    headers = [
        ("x-api-key", customer.key),
        ("anthropic-beta", "pdfs-2024-09-25"),
        ("Anthropic-Beta", "managed-agents-2026-04-01"),
    ]
    fetched = await fetch(
        customer.gateway.session.post(customer.gateway.url + MESSAGES, data=message(), headers=headers)
    )
    fault(fetched, 400, "invalid_request_error", "invalid_request_error")
    assert provider.sent == []


async def test_a_window_that_is_exhausted(customer_of):
    def once(settings):
        quota = Quota(Window.day, Metric.requests, 1)
        return replace(settings, plans={name: replace(plan, quotas=(quota,)) for name, plan in settings.plans.items()})

    customer = await customer_of(saying(answer()), at=partial(scripted, change=once))
    assert (await send(customer)).status == 200
    refused = await send(customer)
    assert fault(refused, 429, "rate_limit_error", "quota_exceeded")["quota"]["limit"] == 1
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("status", [400, 413, 429, 500, 529])
async def test_a_provider_s_own_error_passes_and_is_free(customer_of, status):
    body = {"type": "error", "error": {"type": "some_error", "message": "No."}, "request_id": "req_1"}
    customer = await customer_of(saying(body, status))
    fetched = await send(customer)
    assert (fetched.status, fetched.json) == (status, body)
    assert fetched.headers["request-id"] == fetched.headers["x-request-id"]
    await assert_free(customer)


async def test_other_models_of_an_answer_have_their_own_price(customer_of):
    advisor = {
        "type": "advisor_20260301",
        "name": "advisor",
        "model": "claude-opus-5",
        "max_uses": 1,
        "max_tokens": 500,
    }
    iterations = [
        {"type": "message", "input_tokens": 100, "output_tokens": 10},
        {"type": "advisor_message", "input_tokens": 1_000, "output_tokens": 100, "model": "claude-opus-5"},
    ]
    used = {"input_tokens": 100, "output_tokens": 10, "iterations": iterations}
    customer = await customer_of(saying(answer(usage=used)), "50.00")
    headers = {"anthropic-beta": "advisor-tool-2026-03-01"}
    assert (await send(customer, message(tools=[advisor]), headers=headers)).status == 200
    cost = 100 * 1_000 + 10 * 5_000 + 1_000 * 5_000 + 100 * 25_000
    found = await the_event(customer, cost, "50.00")
    assert (found["input_tokens"], found["output_tokens"]) == (1_100, 110)


async def test_searches_are_charged_and_held(gateway_of):
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    used = {"input_tokens": 100, "output_tokens": 10, "server_tool_use": {"web_search_requests": 2}}
    gateway = await gateway_of(saying(answer(usage=used)))
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.10")
    assert (await send(customer, message(tools=[search]))).status == 200
    await the_event(customer, 100 * 1_000 + 10 * 5_000 + 2 * parse_usd("0.01"))
    fault(await send(poor, message(tools=[search])), 402, "billing_error", "billing_required")


async def test_searches_that_say_no_bound_get_one_and_the_client_is_told(customer_of):
    search = {"type": "web_search_20250305", "name": "web_search"}
    used = {"input_tokens": 100, "output_tokens": 10, "server_tool_use": {"web_search_requests": 2}}
    provider = Provider(saying(answer(usage=used)))
    customer = await customer_of(provider.serve)
    unknown = {"type": "hologram_20300101", "name": "x"}
    fetched = await send(customer, message(tools=[search, unknown]))
    assert fetched.status == 200
    granted = int(fetched.headers["x-metergate-granted-tool-calls"])
    assert 1 <= granted <= 8
    assert provider.sent[0].json["tools"] == [{**search, "max_uses": granted}, unknown]
    await the_event(customer, 100 * 1_000 + 10 * 5_000 + 2 * parse_usd("0.01"))


@pytest.mark.parametrize("max_uses", [{"max_uses": 1}, {}])
async def test_what_a_page_brought_is_charged_however_far_it_is_above_the_hold(gateway_of, max_uses):
    """A page that fills the window is more than `max_usage_factor` times what one call is held for, and true."""
    used = {"input_tokens": 950_000, "output_tokens": 10}
    gateway = await gateway_of(saying(answer(model="claude-opus-5", usage=used)))
    customer = await gateway.customer("1.00", default_tool_calls=1)
    fetching = {"type": "web_fetch_20250910", "name": "web_fetch", **max_uses}
    assert (await send(customer, message(model="claude-opus-5", tools=[fetching]))).status == 200
    found = await the_event(customer, 950_000 * 5_000 + 10 * 25_000, "1.00")
    assert (found["input_tokens"], found["note"]) == (950_000, None)


async def test_more_than_all_rounds_could_read_is_not_believed(customer_of):
    used = {"input_tokens": 1_500_000_000, "output_tokens": 10}
    customer = await customer_of(saying(answer(usage=used)))
    fetching = {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 1}
    assert (await send(customer, message(tools=[fetching]))).status == 200
    assert (await the_event(customer))["note"] == "implausible_usage"


async def test_a_larger_window_is_held_whole(gateway_of):
    provider = Provider(saying(answer()))
    gateway = await gateway_of(provider.serve)
    customer, poor = await gateway.customer("20.00"), await gateway.customer("4.00")
    body = message(model="claude-sonnet-4-5", messages=[{"role": "user", "content": "x" * 600_000}])
    raised = {"anthropic-beta": "context-1m-2025-08-07"}
    for who, headers, status in ((poor, {}, 200), (poor, raised, 402), (customer, raised, 200)):
        assert (await send(who, body, headers=headers)).status == status
    assert [sent.headers.get("anthropic-beta") for sent in provider.sent] == [None, "context-1m-2025-08-07"]


async def test_a_session_of_claude_code_is_served(customer_of):
    customer = await customer_of(streaming(*stream("Hello")))
    for asked in recorded("claude-code")[:4]:
        headers = {name: value for name, value in asked.headers.items() if name not in ("authorization", "x-api-key")}
        url = customer.gateway.url + asked.path
        posted = customer.gateway.session.post(url, data=asked.body, headers={"x-api-key": customer.key, **headers})
        assert (await fetch(posted)).status == 200


async def test_a_faster_speed_needs_a_price_and_has_it(gateway_of):
    used = {"input_tokens": 100, "output_tokens": 10}
    gateway = await gateway_of(saying(answer(usage=used)))
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.005")
    assert (await send(customer, message(model="claude-opus-5", speed="fast"))).status == 200
    await the_event(customer, 100 * 10_000 + 10 * 50_000)
    refused = await send(customer, message(speed="fast"))
    fault(refused, 400, "invalid_request_error", "model_not_priced")
    fast = await send(poor, message(model="claude-opus-5", speed="fast"))  # 100 tokens cost 0.005 USD
    fault(fast, 402, "billing_error", "billing_required")
    assert (await send(poor, message(model="claude-opus-5"))).status == 200


async def test_the_region_that_an_answer_names_is_priced(customer_of):
    used = {"input_tokens": 100, "output_tokens": 10, "inference_geo": "us"}
    customer = await customer_of(saying(answer(usage=used)))
    assert (await send(customer, message(model="claude-opus-5"))).status == 200
    await the_event(customer, 110 * 5_000 + 11 * 25_000)


async def test_the_cost_stands_in_the_last_usage_where_the_client_wants_it(customer_of):
    customer = await customer_of(streaming(*stream("Hello")))
    fetched = await send(customer, message(stream=True), headers={"x-metergate-include-cost": "true"})
    delta = next(each for each in fetched.body.split(b"\n\n") if each.startswith(b"event: message_delta"))
    cost = json.loads(delta.partition(b"data: ")[2])["usage"]["charge_usd"]
    assert parse_usd(cost) == COST


async def test_an_answer_without_usage_is_estimated(customer_of):
    customer = await customer_of(saying(answer(usage=None)))
    assert (await send(customer)).status == 200
    found = await the_event(customer)
    assert found["estimated"]
    assert 2 <= found["output_tokens"] <= 10


async def test_the_local_provider_speaks_it(gateway):
    customer = await gateway.customer("5.00")
    whole = await send(customer, message(model="demo"))
    streamed = await send(customer, message(model="demo", stream=True))
    text = whole.json["content"][0]["text"]
    assert text
    events = [json.loads(line[6:]) for line in streamed.body.decode().splitlines() if line.startswith("data: ")]
    assert "".join(each["delta"]["text"] for each in events if each["type"] == "content_block_delta") == text
    assert await spent_nano(customer) > 0


async def test_models_are_listed_in_anthropic_s_shape(gateway_of):
    customer = await (await gateway_of(saying(answer()))).customer("5.00", models=["claude-*", "gpt-*"])

    async def get(path, **options):
        headers = {"x-api-key": customer.key, **VERSION}
        return await fetch(customer.gateway.session.get(customer.gateway.url + path, headers=headers, **options))

    listed = (await get("/v1/models?limit=1000")).json
    names = [model["id"] for model in listed["data"]]
    assert "claude-haiku" in names
    assert not [name for name in names if name.startswith("gpt")]
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, names[0], names[-1])
    page = (await get(f"/v1/models?limit=2&after_id={names[0]}")).json
    assert ([model["id"] for model in page["data"]], page["has_more"]) == (names[1:3], True)
    before = (await get(f"/v1/models?limit=2&before_id={names[3]}")).json
    assert ([model["id"] for model in before["data"]], before["has_more"]) == (names[1:3], True)
    fetched = await get("/v1/models/claude-haiku")
    assert (fetched.json["type"], fetched.json["id"], fetched.json["max_tokens"]) == ("model", "claude-haiku", 64_000)
    assert fetched.headers["request-id"] == fetched.headers["x-request-id"]
    fault(await get("/v1/models/gpt-4o"), 404, "not_found_error", "model_not_found")
    fault(await get("/v1/models?limit=0"), 400, "invalid_request_error", "invalid_request_error")
    fault(await get("/v1/models?after_id=x"), 400, "invalid_request_error", "invalid_request_error")
    assert (await fetch(customer.get("/v1/models"))).json["object"] == "list"


async def test_openai_s_api_is_asked_for_at_the_same_provider(customer_of):
    provider = Provider(saying(chat_answer()))
    customer = await customer_of(provider.serve)
    fetched = await ask(customer, chat(model="claude-haiku", max_tokens=50))
    assert (fetched.status, fetched.json) == (200, chat_answer())
    (sent,) = provider.sent
    assert (sent.path, sent.json["model"]) == ("/v1/chat/completions", "claude-haiku-4-5")
    assert sent.headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    await the_event(customer, 10 * 1_000 + 5 * 5_000)


async def test_the_operator_s_key_is_not_the_client_s_fault(customer_of):
    body = {"type": "error", "error": {"type": "authentication_error", "message": f"invalid x-api-key {PROVIDER_KEY}"}}
    customer = await customer_of(saying(body, 401))
    fault(await send(customer), 502, "api_error", "upstream_error")
    await assert_free(customer)
    url = customer.gateway.url + MESSAGES
    fetched = await fetch(customer.gateway.session.get(url, headers={"x-api-key": customer.key}))
    fault(fetched, 405, "invalid_request_error", "method_not_allowed")


async def test_a_name_of_the_gateway_s_own_is_the_provider_s_there(customer_of):
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    body = message(model="claude-haiku", metadata={"user_id": "user-7"})
    assert (await send(customer, body)).status == 200
    assert provider.sent[0].json == {**json.loads(body), "model": "claude-haiku-4-5"}
    assert (await the_event(customer, COST))["end_user"] == "user-7"
