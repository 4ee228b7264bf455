"""What is one key's own is kept by no cache, and given to nobody else by one that keeps it all the same."""

from dataclasses import replace

import pytest

from tests.gateway.conftest import MakeGateway, Upstream
from tests.gateway.dialects.openai_responses.bodies import response
from tests.support.answering import Provider, saying
from tests.support.gateways import Fetched, ask, fetch

KEYS = {"authorization", "x-api-key", "x-goog-api-key", "api-key"}
FAR = "Thu, 31 Dec 2099 23:59:59 GMT"


def is_private(fetched: Fetched) -> bool:
    told = fetched.headers.getall("Cache-Control")
    varies = {name.strip().lower() for value in fetched.headers.getall("Vary") for name in value.split(",")}
    return told == ["private, no-store"] and varies >= KEYS and "Expires" not in fetched.headers


@pytest.mark.parametrize("origins", [(), ("https://app.example.com",)], ids=["alone", "with CORS"])
async def test_answers_of_one_key_are_private(
    make_gateway: MakeGateway, upstream: Upstream, origins: tuple[str, ...]
) -> None:
    public = {"Cache-Control": "public, max-age=600", "Expires": FAR, "Vary": "Accept"}
    provider = Provider(saying(response(), **public))
    gateway = await make_gateway(
        await upstream(provider.serve), change=lambda settings: replace(settings, cors_origins=origins)
    )
    customer = await gateway.customer(scopes=["llm:proxy", "billing:read"])
    origin = {"Origin": origins[0]} if origins else {}
    made = await ask(customer, {"model": "gpt-4o-mini", "input": "Hello"}, "/v1/responses", headers=origin)
    stored = f"/v1/responses/{made.json['id']}"
    generation = f"/v1/generations/{made.headers['x-request-id']}"
    paths = ["/v1/models", "/v1/models/demo", "/v1/key", generation, stored, f"{stored}/input_items"]
    for path in paths:
        fetched = await fetch(customer.get(path, headers=origin))
        assert fetched.status == 200, path
        assert is_private(fetched), (path, fetched.headers)
        assert fetched.headers.get("Access-Control-Allow-Origin") == (origins[0] if origins else None)
    listed = await fetch(customer.get("/v1/models", headers={"anthropic-version": "2023-06-01"}))
    assert "anthropic-version" in listed.headers["Vary"].lower()


async def test_refusals_are_not_stored(gateway_of):
    """A 404 may be kept by a cache that is told nothing (RFC 9110, 15.5.5)."""
    gateway = await gateway_of()
    customer = await gateway.customer()
    for path in ("/v1/models/nothing", "/v1/generations/x", "/v1/responses/resp_1", "/v1/nothing", "/v1/completions"):
        fetched = await fetch(customer.get(path))
        assert fetched.status >= 400
        assert "no-store" in fetched.headers["Cache-Control"], path
    anybody = await fetch(gateway.session.get(gateway.url + "/v1/key"))
    assert (anybody.status, anybody.headers["Cache-Control"]) == (401, "private, no-store")


async def test_what_is_everybody_s_is_kept_as_before(gateway_of):
    gateway = await gateway_of()
    keys = await fetch(gateway.session.get(gateway.url + "/.well-known/jwks.json"))
    assert keys.headers["Cache-Control"].startswith("public")
