"""Browsers of other origins: preflights without a key, and what every answer says to them."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.config.settings import Settings
from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects
from gateway.server.cors import PATHS, Cors
from tests.gateway.conftest import ADMIN_KEY, Gateway, chat
from tests.support.answering import DONE, SSE, WORDS, Provider, answer, saying, streaming, usage_chunk
from tests.support.gateways import Fetched, ask, fetch

APP, OTHER = "https://app.example.com", "https://else.example.com"
THEIRS = {"Access_Control_Allow_Origin": "https://theirs", "Access_Control_Allow_Credentials": "true", "Vary": "Cookie"}


def test_every_dialects_paths_are_asked_for():
    served = {path for _, path in make_dialects(StructureBounds()).routes()}
    assert not [path for path in served if not path.startswith(PATHS)]


def allowing(*origins: str) -> Callable[[Settings], Settings]:
    return lambda settings: replace(settings, cors_origins=origins)


async def preflight(gateway: Gateway, path: str, origin: str = APP, asked: str = "authorization") -> Fetched:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    return await fetch(gateway.session.options(gateway.url + path, headers=headers))


@pytest.mark.parametrize(("origins", "told"), [((APP, "https://x.example.com"), APP), (("*",), "*")])
async def test_a_preflight_is_answered_without_a_key(make_gateway, origins, told):
    gateway = await make_gateway(change=allowing(*origins))
    asked = "authorization,content-type,x-api-key,x-stainless-arch,x-stainless-runtime-version,cookie"
    paths = ["/v1/chat/completions", "/v1/models", "/v1/models/a/b", "/api/account/balance", "/api/admin/keys"]
    paths += ["/v1beta/models/demo:generateContent", "/v2/rerank", "/openai/v1/responses", "/azure/openai/v1/responses"]
    for path in paths:
        fetched = await preflight(gateway, path, asked=asked)
        assert (fetched.status, fetched.body) == (204, b"")
        headers = fetched.headers
        assert headers["Access-Control-Allow-Origin"] == told
        assert headers["Vary"] == "Origin"
        assert {"GET", "POST", "PATCH", "PUT", "DELETE"} <= set(headers["Access-Control-Allow-Methods"].split(", "))
        allowed = set(headers["Access-Control-Allow-Headers"].split(", "))
        assert set(asked.split(",")) - allowed == {"cookie"}
        assert int(headers["Access-Control-Max-Age"]) > 0
        assert "Access-Control-Allow-Credentials" not in headers


def varies(fetched: Fetched) -> list[str]:
    """What caches are told that an answer depends on."""
    (*_, told) = fetched.headers.getall("Vary", [""])
    return told.split(", ")


async def test_only_the_named_origins_are_told_that_they_may(make_gateway):
    gateway = await make_gateway(change=allowing(APP))
    refused = await preflight(gateway, "/v1/chat/completions", OTHER)
    assert "Access-Control-Allow-Origin" not in refused.headers
    assert refused.headers["Vary"] == "Origin"
    for path in ("/v1/chat/completions", "/api/account/balance"):  # no preflight
        assert (await fetch(gateway.session.options(gateway.url + path, headers={"Origin": APP}))).status == 405


async def test_every_answer_says_it(make_gateway, upstream):
    provider = Provider(saying(answer(), **THEIRS))
    gateway = await make_gateway(await upstream(provider.serve), change=allowing(APP))
    customer = await gateway.customer()
    origin = {"Origin": APP}
    answers = [await ask(customer, headers=origin)]
    provider.reply = streaming(*WORDS, usage_chunk(), DONE, headers={**SSE, "Access-Control-Allow-Origin": "*"})
    answers.append(await ask(customer, chat(model="gpt-4o-mini", stream=True), headers=origin))
    for status in (400, 401, 500):
        provider.reply = saying({"error": {}}, status, **THEIRS)
        answers.append(await ask(customer, headers=origin))
    answers.append(await ask(customer, chat(model="nothing"), headers=origin))
    answers.append(await fetch(gateway.session.post(gateway.url + "/v1/chat/completions", headers=origin)))
    for path in ("/v1/models", "/v1/key", "/api/account/balance", "/api/nothing", "/nothing", "/healthz"):
        answers.append(await fetch(customer.get(path, headers=origin)))
    assert [each.status for each in answers] == [200, 200, 400, 502, 500, 404, 401, 200, 200, 200, 404, 404, 200]
    for each in answers:
        assert each.headers.getall("Access-Control-Allow-Origin") == [APP]
        assert varies(each)[-1] == "Origin"
        assert "Access-Control-Allow-Credentials" not in each.headers
        exposed = each.headers["Access-Control-Expose-Headers"].split(", ")
        for name in ("x-request-id", "x-metergate-cost-usd", "x-metergate-balance-usd", "retry-after"):
            assert name in exposed
        for name in each.headers:
            if name.lower().startswith(("x-metergate-", "x-ratelimit-")):
                assert name.lower() in exposed
    for headers in ({}, {"Origin": OTHER}, {"Origin": "null"}):
        for fetched in (await ask(customer, headers=headers), await fetch(customer.get("/v1/models", headers=headers))):
            assert "Access-Control-Allow-Origin" not in fetched.headers
            assert varies(fetched)[-1] == "Origin"


async def test_without_the_variable_nothing_is_said(make_gateway, upstream):
    gateway = await make_gateway(await upstream(saying(answer(), **THEIRS)))
    customer = await gateway.customer()
    fetched = [
        await ask(customer, headers={"Origin": APP}),
        await fetch(customer.get("/v1/models", headers={"Origin": APP})),
        await preflight(gateway, "/v1/chat/completions"),
        await preflight(gateway, "/api/account/balance"),
    ]
    assert [each.status for each in fetched] == [200, 200, 405, 405]
    for each in fetched:
        assert not [name for name in each.headers if name.lower().startswith("access-control-")]
        assert "Origin" not in varies(each)
        assert "Cookie" not in varies(each)


async def test_every_answer_has_an_id_and_is_not_sniffed(gateway):
    customer = await gateway.customer()
    admin = {"X-Admin-Key": ADMIN_KEY}
    for path in ("/api/account/balance", "/api/nothing", "/api/admin/accounts", "/api/ping", "/healthz", "/metrics"):
        for headers in ({}, admin):
            answered = await fetch(customer.get(path, headers=headers))
            assert len(answered.headers["x-request-id"]) == 26
            assert answered.headers.getall("X-Content-Type-Options") == ["nosniff"]
    for path in ("/", "/nothing", "/console", "/docs", "/.well-known/jwks.json", "/v1/models"):
        answered = await fetch(gateway.session.get(gateway.url + path, allow_redirects=False))
        assert answered.headers.getall("X-Content-Type-Options") == ["nosniff"], path


def test_an_origin_is_known_in_any_case():
    cors = Cors(("https://APP.example.com",))
    assert cors.headers(APP)["Access-Control-Allow-Origin"] == APP
    assert cors.lines(None) == b"Vary: Origin\r\n"
