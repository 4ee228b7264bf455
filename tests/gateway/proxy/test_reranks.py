"""Reranks through a whole gateway: by the search, by tokens, and where an answer reports neither."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.conftest import Change, GatewayOf
from tests.support.answering import PROVIDER_KEY, Provider, saying
from tests.support.gateways import ask, assert_free, the_event

DOCUMENTS = ["Rome is in Italy.", "Lima is the capital of Peru."]
COHERE = {"id": "1", "results": [], "meta": {"billed_units": {"search_units": 2}}}
VOYAGE = {"object": "list", "data": [], "model": "rerank-2", "usage": {"total_tokens": 26}}

JINA = {
    "model": "jina-reranker-v3",
    "object": "list",
    "usage": {"prompt_tokens": 26, "total_tokens": 26},
    "results": [{"index": 1, "relevance_score": 0.9, "document": {"text": DOCUMENTS[1]}}],
}


def rerank(model: str = "demo-rerank", **fields: Any) -> dict[str, Any]:
    return {"model": model, "query": "the capital of Peru", "documents": DOCUMENTS, **fields}


def serving(url: str) -> Change:
    """Settings whose providers of reranks are here."""

    def change(settings: Settings) -> Settings:
        own = {
            name: ProviderConfig(name, "openai", url, Secret(PROVIDER_KEY), dialects={"rerank": url})
            for name in ("cohere", "voyage")
        }
        return replace(settings, providers={**settings.providers, **own})

    return change


@pytest.fixture
def gateway_of(gateway_of: GatewayOf) -> GatewayOf:
    return partial(gateway_of, at=serving)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_the_local_provider_reranks(gateway, path):
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, rerank(top_n=1), path=path)
    assert fetched.status == 200, fetched.body
    assert fetched.json["results"] == [{"index": 1, "relevance_score": 1.0}]
    event = await the_event(customer)
    assert (event["charged_usd"], event["units"], event["endpoint"]) == ("0.002", {"searches": 1}, path)
    assert not event["estimated"]


async def test_searches_are_charged_as_reported(customer_of):
    provider = Provider(saying(COHERE))
    customer = await customer_of(provider.serve)
    assert (await ask(customer, rerank("rerank-v3.5"), path="/v2/rerank")).json == COHERE
    assert (provider.sent[0].path, provider.sent[0].json) == ("/v1/rerank", rerank("rerank-v3.5"))
    assert provider.sent[0].headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    assert (await the_event(customer))["charged_usd"] == "0.004"


@pytest.mark.parametrize("meta", [VOYAGE, JINA])
async def test_tokens_are_charged_as_reported(customer_of, meta):
    customer = await customer_of(saying(meta))
    assert (await ask(customer, rerank("rerank-2"), path="/v1/rerank")).json == meta
    event = await the_event(customer)
    assert (event["input_tokens"], event["charged_usd"], event["estimated"]) == (26, "0.0000013", False)


async def test_an_answer_that_reports_nothing_is_one_search(customer_of):
    customer = await customer_of(saying({"results": []}))
    assert (await ask(customer, rerank("rerank-v3.5"), path="/v1/rerank")).status == 200
    event = await the_event(customer)
    assert (event["charged_usd"], event["units"], event["estimated"]) == ("0.002", {"searches": 1}, True)


async def test_or_its_input_where_tokens_are_priced(customer_of):
    customer = await customer_of(saying({"results": []}))
    assert (await ask(customer, rerank("rerank-2"), path="/v1/rerank")).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert 10 < event["input_tokens"] < 40


async def test_what_has_no_price_is_refused(gateway):
    poor, customer = await gateway.customer("0.001"), await gateway.customer("5.00")
    refused = await ask(poor, rerank(), path="/v1/rerank")
    assert (refused.status, refused.json["error"]["billing"]["required_usd"]) == (402, "0.002")
    pictures = await ask(customer, rerank(documents=[{"image": "https://example.com/a.png"}]), path="/v1/rerank")
    assert (pictures.status, pictures.json["error"]["param"]) == (400, "documents")
    unserved = await ask(customer, rerank("openai/rerank"), path="/v1/rerank")
    assert unserved.status == 404
    await assert_free(customer)
