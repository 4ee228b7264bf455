"""Reranks through a whole gateway: by the search, by tokens, and where an answer reports neither."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from gateway.config.settings import Settings
from tests.gateway.conftest import Customer, Gateway, Handler, MakeGateway
from tests.support.answering import PROVIDER_KEY, Provider, saying
from tests.support.gateways import ask, assert_free, the_event
from tests.support.stories import Stories, Tell

Upstream = Callable[[Handler], Any]
stories = Stories()
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


async def customer_of(make_gateway: MakeGateway, upstream: Upstream, provider: Provider) -> Customer:
    return await (await make_gateway(change=serving(await upstream(provider.serve)))).customer("5.00")


@cache
def serving(url: str) -> Callable[[Settings], Settings]:
    """Settings whose providers of reranks are here."""

    def change(settings: Settings) -> Settings:
        own = {
            name: ProviderConfig(name, "openai", url, Secret(PROVIDER_KEY), dialects={"rerank": url})
            for name in ("cohere", "voyage")
        }
        return replace(settings, providers={**settings.providers, **own})

    return change


@stories
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def the_local_provider_reranks(gateway: Gateway, path: str) -> None:
    customer = await gateway.customer("5.00")
    fetched = await ask(customer, rerank(top_n=1), path=path)
    assert fetched.status == 200, fetched.body
    assert fetched.json["results"] == [{"index": 1, "relevance_score": 1.0}]
    event = await the_event(customer)
    assert (event["charged_usd"], event["units"], event["endpoint"]) == ("0.002", {"searches": 1}, path)
    assert not event["estimated"]


@stories
async def searches_are_charged_as_reported(make_gateway: MakeGateway, upstream: Upstream) -> None:
    provider = Provider(saying(COHERE))
    customer = await customer_of(make_gateway, upstream, provider)
    assert (await ask(customer, rerank("rerank-v3.5"), path="/v2/rerank")).json == COHERE
    assert (provider.sent[0].path, provider.sent[0].json) == ("/v1/rerank", rerank("rerank-v3.5"))
    assert provider.sent[0].headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    assert (await the_event(customer))["charged_usd"] == "0.004"


@stories
@pytest.mark.parametrize("meta", [VOYAGE, JINA])
async def tokens_are_charged_as_reported(make_gateway: MakeGateway, upstream: Upstream, meta: dict[str, Any]) -> None:
    customer = await customer_of(make_gateway, upstream, Provider(saying(meta)))
    assert (await ask(customer, rerank("rerank-2"), path="/v1/rerank")).json == meta
    event = await the_event(customer)
    assert (event["input_tokens"], event["charged_usd"], event["estimated"]) == (26, "0.0000013", False)


@stories
async def an_answer_that_reports_nothing_is_one_search(make_gateway: MakeGateway, upstream: Upstream) -> None:
    customer = await customer_of(make_gateway, upstream, Provider(saying({"results": []})))
    assert (await ask(customer, rerank("rerank-v3.5"), path="/v1/rerank")).status == 200
    event = await the_event(customer)
    assert (event["charged_usd"], event["units"], event["estimated"]) == ("0.002", {"searches": 1}, True)


@stories
async def or_its_input_where_tokens_are_priced(make_gateway: MakeGateway, upstream: Upstream) -> None:
    customer = await customer_of(make_gateway, upstream, Provider(saying({"results": []})))
    assert (await ask(customer, rerank("rerank-2"), path="/v1/rerank")).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert 10 < event["input_tokens"] < 40


@stories
async def what_has_no_price_is_refused(gateway: Gateway) -> None:
    poor, customer = await gateway.customer("0.001"), await gateway.customer("5.00")
    refused = await ask(poor, rerank(), path="/v1/rerank")
    assert (refused.status, refused.json["error"]["billing"]["required_usd"]) == (402, "0.002")
    pictures = await ask(customer, rerank(documents=[{"image": "https://example.com/a.png"}]), path="/v1/rerank")
    assert (pictures.status, pictures.json["error"]["param"]) == (400, "documents")
    unserved = await ask(customer, rerank("openai/rerank"), path="/v1/rerank")
    assert unserved.status == 404
    await assert_free(customer)


async def test_on_one_gateway(tell: Tell) -> None:
    await tell(stories, lambda url: {"change": serving(url)})
