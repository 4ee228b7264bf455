"""Gemini's API through a whole gateway: served, metered, refused and streamed. Prices are gemini-2.5-flash's, in
nano-USD."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from billing.quotas import Metric, Quota, Window
from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.conftest import Change, Customer, Gateway, GatewayOf
from tests.gateway.dialects.gemini.support import ASKED, MODEL, PIECES, answer, array, asked, candidate, counts, events
from tests.support.answering import PROVIDER_KEY, Provider, saying, streaming
from tests.support.gateways import Fetched, assert_free, assert_tells_no_secret, fetch, spent_nano, the_event

pytestmark = pytest.mark.slow

IN, CACHED, OUT, SEARCH = 300, 30, 2_500, 35_000_000
JSON_HEADERS = {"Content-Type": "application/json; charset=UTF-8"}
STREAMED_COST = 10 * IN + 10 * OUT
Make = Callable[..., Any]


def with_gemini(url: str, change: Change | None = None) -> Change:
    """Settings with a provider `gemini` at this URL."""
    own = ProviderConfig("gemini", "gemini", url.removesuffix("/v1"), Secret(PROVIDER_KEY))

    def changed(settings: Settings) -> Settings:
        settings = settings if change is None else change(settings)
        return replace(settings, providers={**settings.providers, "gemini": own})

    return changed


@pytest.fixture
def make(gateway_of: GatewayOf) -> Make:
    """Gives a gateway of this module whose provider `gemini` answers by `provider` from now on."""

    async def made(provider: Provider, change: Change | None = None) -> Gateway:
        at = with_gemini if change is None else partial(with_gemini, change=change)
        return await gateway_of(provider.serve, at=at)

    return made


async def generate(
    customer: Customer,
    body: Any = None,
    method: str = "generateContent",
    *,
    model: str = MODEL,
    version: str = "v1beta",
    query: str = "",
    headers: dict[str, str] | None = None,
) -> Fetched:
    url = f"{customer.gateway.url}/{version}/models/{model}:{method}{query}"
    sent = {"x-goog-api-key": customer.key} if headers is None else headers
    return await fetch(customer.gateway.session.post(url, json=ASKED if body is None else body, headers=sent))


def error(fetched: Fetched, status: int, name: str, code: str) -> dict[str, Any]:
    """The error in Google's envelope."""
    assert_tells_no_secret(fetched.body.decode() + str(fetched.headers))
    assert fetched.status == status, fetched.body
    shown: dict[str, Any] = fetched.json["error"]
    assert (shown["code"], shown["status"]) == (status, name)
    info = shown["details"][0]
    assert (info["reason"], info["metadata"]["code"]) == (code.upper(), code)
    assert info["metadata"]["request_id"] == fetched.headers["x-request-id"]
    return shown


@pytest.mark.parametrize("model", [MODEL, f"gemini/{MODEL}", f"gemini%2F{MODEL}"])
@pytest.mark.parametrize("version", ["v1beta", "v1"])
async def test_a_request_is_served_and_metered(make, model, version):
    body = answer(usage=counts(100, 5, cachedContentTokenCount=40, thoughtsTokenCount=3, totalTokenCount=108))
    provider = Provider(saying(body))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, model=model, version=version, query="?prettyPrint=false")
    assert (fetched.status, fetched.json) == (200, body)
    (sent,) = provider.sent
    assert (sent.path, sent.query) == (f"/{version}/models/{MODEL}:generateContent", "prettyPrint=false")
    assert sent.json == ASKED
    assert sent.headers["x-goog-api-key"] == PROVIDER_KEY
    assert customer.key not in str(sent.headers)
    event = await the_event(customer, 60 * IN + 40 * CACHED + 8 * OUT)
    assert event["endpoint"] == f"/{version}/models/{{model}}:generateContent"
    assert (event["provider"], event["provider_model"], event["estimated"]) == ("gemini", MODEL, False)
    assert (event["input_tokens"], event["output_tokens"], event["reasoning_tokens"]) == (100, 8, 3)


async def test_a_key_may_be_shown_in_three_ways(make):
    """In the query it is taken off; a client's format of the answer and field masks do not pass."""
    provider = Provider(saying(answer()))
    gateway = await make(provider)
    customer, other = await gateway.customer("5.00"), await gateway.customer("5.00")
    query = f"?key={customer.key}&alt=json&fields=candidates&$fields=candidates"
    assert (await generate(customer, headers={}, query=query)).status == 200
    assert provider.sent[-1].query == "alt=json"
    assert customer.key not in str(provider.sent[-1].headers)
    assert (await generate(customer, headers={"Authorization": f"Bearer {customer.key}"})).status == 200
    twice = await generate(other, query=query)
    error(twice, 401, "UNAUTHENTICATED", "invalid_api_key")
    assert len(provider.sent) == 2


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("sse", [True, False])
async def test_a_stream_passes_byte_for_byte(make, one_by_one, sse):
    whole = events(*PIECES) if sse else array(*PIECES)
    pieces = [bytes([byte]) for byte in whole] if one_by_one else [whole[:150], whole[150:]]
    provider = Provider(streaming(*pieces, headers=None if sse else JSON_HEADERS))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, method="streamGenerateContent", query="?alt=sse" if sse else "")
    assert (fetched.status, fetched.body, fetched.cut) == (200, whole, False)
    assert provider.sent[0].query == ("alt=sse" if sse else "")
    event = await the_event(customer, STREAMED_COST)
    assert (event["estimated"], event["stream"]) == (False, True)


@pytest.mark.parametrize("sse", [True, False])
async def test_the_end_of_a_stream_waits_for_its_debit(make, sse, monkeypatch):
    whole = events(*PIECES) if sse else array(*PIECES)
    provider = Provider(streaming(whole, headers=None if sse else JSON_HEADERS))
    customer = await (await make(provider)).customer("5.00")
    holds = customer.gateway.runtime.engine.holds
    settle, ended = holds.settle, []

    def settling(*args):
        ended.append(True)
        return settle(*args)

    monkeypatch.setattr(holds, "settle", settling)
    url = f"{customer.gateway.url}/v1beta/models/{MODEL}:streamGenerateContent"
    taken = b""
    async with customer.gateway.session.post(url, json=ASKED, headers={"x-goog-api-key": customer.key}) as answered:
        async for chunk in answered.content.iter_any():
            taken += chunk
            assert b"STOP" not in taken or ended
    assert taken == whole


@pytest.mark.parametrize("sse", [True, False])
async def test_a_stream_without_its_end_is_cut(make, sse):
    whole = events(*PIECES) if sse else array(*PIECES)
    part = whole[: whole.index(b"friend") + 200]
    provider = Provider(streaming(part, headers=None if sse else JSON_HEADERS))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, method="streamGenerateContent", query="?alt=sse" if sse else "")
    assert fetched.cut
    event = await the_event(customer)
    assert event["status"] == 502
    assert event["input_tokens"] >= 10
    assert event["output_tokens"] >= 4


@pytest.mark.parametrize("sse", [True, False])
async def test_an_error_after_output_is_passed_on_and_costs_what_passed(make, sse):
    pieces = [PIECES[0], PIECES[1], {"error": {"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"}}]
    whole = events(*pieces) if sse else array(*pieces)
    provider = Provider(streaming(whole, headers=None if sse else JSON_HEADERS))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, method="streamGenerateContent")
    assert (fetched.body, fetched.cut) == (whole, False)
    assert await spent_nano(customer) >= 10 * IN + 4 * OUT


async def test_the_cost_stands_in_the_last_usage_where_the_client_wants_it(make):
    customer = await (await make(Provider(streaming(array(*PIECES), headers=JSON_HEADERS)))).customer("5.00")
    headers = {"x-goog-api-key": customer.key, "x-metergate-include-cost": "true"}
    fetched = await generate(customer, method="streamGenerateContent", headers=headers)
    assert json.loads(fetched.body)[-1]["usageMetadata"]["charge_usd"] == "0.000028"


async def test_a_blocked_prompt_costs_its_input(make):
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": counts(10, 0)}
    customer = await (await make(Provider(saying(blocked)))).customer("5.00")
    assert (await generate(customer)).json == blocked
    assert not (await the_event(customer, 10 * IN))["estimated"]


@pytest.mark.parametrize("usage", [{}, counts(10, 0)])
async def test_an_answer_that_nobody_counted_is_estimated(make, usage):
    customer = await (await make(Provider(saying(answer(usage=usage))))).customer("5.00")
    assert (await generate(customer)).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert event["output_tokens"] > 0
    assert event["input_tokens"] > 0


async def test_searches_are_charged(make):
    body = answer(candidate(groundingMetadata={"webSearchQueries": ["a", "b"]}))
    customer = await (await make(Provider(saying(body)))).customer("5.00")
    fetched = await generate(customer, asked(tools=[{"googleSearch": {}}], generationConfig={"maxOutputTokens": 50}))
    assert fetched.status == 200
    await the_event(customer, 10 * IN + 5 * OUT + SEARCH)


async def test_several_candidates_are_held(make):
    """Each of them may write as much as the client allows."""
    provider = Provider(saying(answer(candidate(), candidate(index=1))))
    gateway = await make(provider)
    config = {"maxOutputTokens": 1000, "candidateCount": 4}
    poor = await gateway.customer("0.009")
    refusal = error(
        await generate(poor, asked(generationConfig=config)), 402, "FAILED_PRECONDITION", "billing_required"
    )
    assert refusal["billing"]["required_usd"] >= "0.01"
    rich = await gateway.customer("0.011")
    assert (await generate(rich, asked(generationConfig=config))).status == 200
    assert provider.sent[0].json == asked(generationConfig=config)


async def test_a_maximum_that_is_granted_stands_where_google_reads_it(make):
    provider = Provider(saying(answer()))
    customer = await (await make(provider)).customer("0.01")
    fetched = await generate(customer)
    granted = int(fetched.headers["x-metergate-granted-output-tokens"])
    assert provider.sent[0].json == asked(generationConfig={"maxOutputTokens": granted})


async def test_counting_tokens_is_free(make):
    provider = Provider(saying({"totalTokens": 4}))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, method="countTokens")
    assert (fetched.status, fetched.json) == (200, {"totalTokens": 4})
    assert (await the_event(customer, 0))["endpoint"] == "/v1beta/models/{model}:countTokens"
    error(await generate(customer, method="countTokens", headers={}), 401, "UNAUTHENTICATED", "invalid_api_key")


async def test_embeddings_are_metered(make):
    content = {"parts": [{"text": "Hello."}]}
    batch = {"requests": [{"model": "models/gemini-embedding-001", "content": content}] * 2}
    provider = Provider(saying({"embeddings": [{"values": [0.5]}] * 2, "usageMetadata": {"promptTokenCount": 4}}))
    customer = await (await make(provider)).customer("5.00")
    fetched = await generate(customer, batch, "batchEmbedContents", model="gemini-embedding-001")
    assert fetched.status == 200, fetched.body
    event = await the_event(customer)
    assert (event["input_tokens"], event["output_tokens"], event["estimated"]) == (4, 0, False)
    assert await spent_nano(customer) > 0


async def test_embeddings_that_nobody_counted_are_estimated(make):
    provider = Provider(saying({"embedding": {"values": [0.5]}}))
    customer = await (await make(provider)).customer("5.00")
    body = {"content": {"parts": [{"text": "Hello."}]}}
    assert (await generate(customer, body, "embedContent", model="gemini-embedding-001")).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert event["input_tokens"] > 0


async def test_refusals_are_in_google_s_envelope(make):
    provider = Provider(saying(answer()))
    gateway = await make(provider)
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.000000001")
    error(await generate(customer, headers={"x-goog-api-key": "mg_wrong"}), 401, "UNAUTHENTICATED", "invalid_api_key")
    refusal = error(await generate(customer, {}), 400, "INVALID_ARGUMENT", "invalid_request_error")
    assert refusal["details"][1]["fieldViolations"][0]["field"] == "contents"
    error(await generate(customer, model="nothing"), 404, "NOT_FOUND", "model_not_found")
    error(await generate(customer, model="gpt-4o-mini"), 404, "NOT_FOUND", "model_not_found")
    billing = error(await generate(poor), 402, "FAILED_PRECONDITION", "billing_required")["billing"]
    assert {"status", "balance_usd", "required_usd", "setup_url", "next"} <= billing.keys()
    maps = await generate(customer, asked(tools=[{"googleMaps": {}}]))
    assert "googleMaps" in error(maps, 400, "INVALID_ARGUMENT", "invalid_request_error")["message"]
    assert provider.sent == []
    await assert_free(customer)


@pytest.mark.parametrize(
    "path",
    [
        "/v1beta/files",
        "/upload/v1beta/files",
        "/v1beta/cachedContents",
        "/v1alpha/auth_tokens",
        f"/v1beta/models/{MODEL}:batchGenerateContent",
        f"/v1beta/models/{MODEL}:predict",
    ],
)
async def test_what_can_t_be_metered_is_refused(make, path):
    provider = Provider(saying(answer()))
    customer = await (await make(provider)).customer("5.00")
    fetched = await fetch(
        customer.gateway.session.post(customer.gateway.url + path, json={}, headers={"x-goog-api-key": customer.key})
    )
    error(fetched, 404, "NOT_FOUND", "not_found")
    assert provider.sent == []


async def test_a_window_that_is_exhausted_says_when_it_resets(make):
    def once(settings):
        quota = Quota(Window.day, Metric.requests, 1)
        plans = {name: replace(plan, quotas=(quota,)) for name, plan in settings.plans.items()}
        return replace(settings, plans=plans)

    customer = await (await make(Provider(saying(answer())), once)).customer("5.00")
    assert (await generate(customer)).status == 200
    refused = await generate(customer)
    refusal = error(refused, 429, "RESOURCE_EXHAUSTED", "quota_exceeded")
    assert refusal["quota"]["limit"] == 1
    assert refused.headers["x-should-retry"] == "false"


async def test_a_provider_s_refusal_passes_and_is_free(make):
    body = {"error": {"code": 400, "message": "Not so.", "status": "INVALID_ARGUMENT"}}
    customer = await (await make(Provider(saying(body, 400)))).customer("5.00")
    fetched = await generate(customer)
    assert (fetched.status, fetched.json) == (400, body)
    await assert_free(customer)


async def test_the_local_provider_answers(customer):
    config = {"maxOutputTokens": 30, "candidateCount": 2}
    whole = (await generate(customer, asked(generationConfig=config), model="demo")).json
    reported = whole["usageMetadata"]
    texts = [each["content"]["parts"][0]["text"] for each in whole["candidates"]]
    assert len(texts) == 2
    assert reported["totalTokenCount"] == reported["promptTokenCount"] + reported["candidatesTokenCount"]
    event = await the_event(customer)
    assert (event["input_tokens"], event["output_tokens"]) == (
        reported["promptTokenCount"],
        reported["candidatesTokenCount"],
    )
    for query in ("?alt=sse", ""):
        stream = await generate(
            customer, asked(generationConfig=config), "streamGenerateContent", model="demo", query=query
        )
        assert stream.headers["Content-Type"].startswith("text/event-stream" if query else "application/json")
        lines = [line[6:] for line in stream.body.splitlines() if line.startswith(b"data: ")]
        pieces = json.loads(b"[" + b",".join(lines) + b"]" if query else stream.body)
        assert pieces[-1]["usageMetadata"] == reported
        found = ["", ""]
        for each in pieces:
            found[each["candidates"][0]["index"]] += each["candidates"][0]["content"]["parts"][0]["text"]
        assert found == texts


async def test_the_local_provider_embeds_and_counts(customer):
    content = {"parts": [{"text": "Hello."}]}
    batch = await generate(customer, {"requests": [{"content": content}] * 2}, "batchEmbedContents", model="demo")
    assert [len(each["values"]) for each in batch.json["embeddings"]] == [768, 768]
    one = await generate(customer, {"content": content, "outputDimensionality": 8}, "embedContent", model="demo")
    assert len(one.json["embedding"]["values"]) == 8
    assert (await generate(customer, method="countTokens", model="demo")).json["totalTokens"] > 0
    assert [event["estimated"] for event in await customer.events()] == [False, False, False]
