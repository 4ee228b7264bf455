"""Reports in which every count is zero, in each API beside chat's: estimated, unless the provider is trusted."""

from dataclasses import replace

import pytest

from gateway.config.providers import ProviderConfig
from gateway.config.secret import Secret
from tests.gateway.dialects.anthropic import bodies as anthropic
from tests.gateway.dialects.gemini import support as gemini
from tests.gateway.dialects.openai_responses.bodies import response, stream
from tests.support.answering import PROVIDER_KEY, Provider, saying, streaming
from tests.support.gateways import ask, the_event

NONE = {"input_tokens": 0, "output_tokens": 0}
MESSAGE = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
RESPONSE = {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 50, "store": False}
CONTENT = gemini.answer(usage={"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0})
RERANK = {"model": "rerank-2", "query": "capital", "documents": ["Lima", "Rome"]}
RERANKERS = ("cohere", "voyage")
CASES = {
    "message": ("/v1/messages", MESSAGE, saying(anthropic.answer(usage=NONE))),
    "response": ("/v1/responses", RESPONSE, saying(response(usage=NONE))),
    "streamed response": ("/v1/responses", {**RESPONSE, "stream": True}, streaming(stream(usage=NONE))),
    "content": (f"/v1beta/models/{gemini.MODEL}:generateContent", gemini.ASKED, saying(CONTENT)),
    "rerank by the search": (
        "/v2/rerank",
        {**RERANK, "model": "rerank-v3.5"},
        saying({"results": [], "meta": {"billed_units": {"search_units": 0}}}),
    ),
    "rerank": ("/v1/rerank", RERANK, saying({"object": "list", "data": [], "usage": {"total_tokens": 0}})),
}


@pytest.mark.parametrize("policy", ["estimate", "trust"])
async def test_zeros_of_every_api(make_gateway, upstream, policy):
    provider = Provider(saying({}))
    url = await upstream(provider.serve)
    bare = url.removesuffix("/v1")
    key = Secret(PROVIDER_KEY)
    made = [
        ProviderConfig("openai", "openai", url, key, zero_usage=policy),
        ProviderConfig("anthropic", "anthropic", bare, key, zero_usage=policy),
        ProviderConfig("gemini", "gemini", bare, key, zero_usage=policy),
        *(ProviderConfig(name, "openai", url, key, dialects={"rerank": url}, zero_usage=policy) for name in RERANKERS),
    ]

    def serving(settings):
        return replace(settings, providers={**settings.providers, **{each.name: each for each in made}})

    gateway = await make_gateway(change=serving)
    for name, (path, body, reply) in CASES.items():
        provider.reply = reply
        customer = await gateway.customer("5.00")
        fetched = await ask(customer, body, path)
        assert fetched.status == 200, (name, fetched.body)
        event = await the_event(customer)
        assert (event["charged_usd"] == "0.00") == (policy == "trust"), name
        assert (event["estimated"], event["note"]) == ((False, None) if policy == "trust" else (True, "no_usage")), name
