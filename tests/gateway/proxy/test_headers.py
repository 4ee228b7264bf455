"""What passes between client and provider, what never does, and that the HTTP library keeps CR, LF and NUL out."""

import asyncio
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.proxy.headers import Fixed
from gateway.proxy.headers import incoming as incoming_lines
from gateway.proxy.headers import outgoing as outgoing_lines

CLIENT = {
    "Host": "gateway.example",
    "Content-Type": "application/json",
    "Content-Length": "12",
    "Content-Encoding": "gzip",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, deflate",
    "Authorization": "Bearer mg_client",
    "X-Api-Key": "mg_client",
    "X-Goog-Api-Key": "mg_client",
    "Cookie": "session=mg_client",
    "X-Admin-Key": "mga_operator",
    "X-Service-Name": "billing",
    "api-key": "mg_client",
    "X-Auth-Token": "mg_client",
    "CF-Connecting-IP": "192.0.2.1",
    "True-Client-IP": "192.0.2.1",
    "Referer": "https://app.example/account/7",
    "Origin": "https://app.example",
    "HTTP-Referer": "https://app.example",
    "traceparent": "00-1-2-01",
    "X-Goog-User-Project": "theirs",
    "User-Agent": "OpenAI/Python",
    "X-Stainless-Lang": "python",
    "X-Metergate-Include-Cost": "true",
    "OpenAI-Organization": "org-client",
    "OpenAI-Project": "proj-client",
    "OpenAI-Beta": "assistants=v2",
    "anthropic-version": "2023-06-01",
    "X-Request-Id": "client-id",
    "Forwarded": "for=192.0.2.1",
    "X-Forwarded-For": "192.0.2.1",
    "X-Real-IP": "192.0.2.1",
    "Expect": "100-continue",
    "TE": "trailers",
    "Proxy-Authorization": "Basic bWc6",
    "Keep-Alive": "timeout=5",
    "Upgrade": "h2c",
    "Transfer-Encoding": "chunked",
}

BEARER = ("Authorization", "Bearer sk-provider")
FIXED = Fixed.of(BEARER, {})
OURS = {"Accept-Encoding": "identity", "Content-Type": "application/json"}


def raw(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def parsed(lines: bytes) -> CIMultiDict[str]:
    assert not lines or lines.endswith(b"\r\n")
    pairs = [line.partition(": ") for line in lines.decode().split("\r\n")[:-1]]
    return CIMultiDict([(name, value) for name, _, value in pairs])


def outgoing(
    headers: CIMultiDict[str] | CIMultiDictProxy[str],
    key: str | None,
    extra: dict[str, str] | None = None,
    *passed: str,
) -> CIMultiDict[str]:
    return parsed(
        outgoing_lines(raw(headers), Fixed.of(key and ("Authorization", f"Bearer {key}"), extra or {}, passed), "acc_1")
    )


def incoming(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return parsed(incoming_lines(raw(headers)).lines)


def test_of_a_client_s_headers_only_those_on_the_list_pass():
    assert dict(outgoing(CIMultiDict(CLIENT), "sk-provider")) == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "OpenAI/Python",
        "X-Stainless-Lang": "python",
        "OpenAI-Beta": "assistants=v2",
        "anthropic-version": "2023-06-01",
        "Authorization": "Bearer sk-provider",
    }


def test_without_a_provider_key_no_authorization_is_sent():
    assert "Authorization" not in outgoing(CIMultiDict(CLIENT), None)


def test_extra_headers_replace_the_client_s():
    headers = CIMultiDict([("Anthropic-Version", "old"), ("anthropic-version", "older"), ("x-api-key", "mg_client")])
    sent = outgoing(headers, None, {"anthropic-version": "2023-06-01", "x-api-key": "sk-provider"})
    assert sent.getall("anthropic-version") == ["2023-06-01"]
    assert sent.getall("x-api-key") == ["sk-provider"]


@pytest.mark.parametrize("value", ["x-hop, close", "X-Hop", "close,  x-hop ,", "keep-alive, X-HOP"])
def test_what_connection_names_is_for_one_hop(value):
    headers = CIMultiDict({"Connection": value, "X-Hop": "1", "X-End": "2"})
    assert dict(outgoing(headers, None, {}, "x-hop", "x-end")) == {"X-End": "2", **OURS}
    answered = CIMultiDict({"Connection": value.lower().replace("x-hop", "cf-ray"), "CF-Ray": "1", "Retry-After": "2"})
    assert dict(incoming(answered)) == {"Retry-After": "2"}


def test_several_connection_headers_are_one_list():
    headers = CIMultiDict([("Connection", "close"), ("Connection", "x-hop"), ("x-hop", "1")])
    assert "x-hop" not in outgoing(headers, None, {}, "x-hop")


def test_connection_can_t_remove_the_provider_s_key():
    headers = CIMultiDict({"Connection": "authorization, accept-encoding"})
    assert dict(outgoing(headers, "sk-provider")) == {**OURS, "Authorization": "Bearer sk-provider"}


def test_a_client_does_not_say_what_a_body_is():
    sent = CIMultiDict([("Content-Type", "application/json; charset=utf-7"), ("content-type", "text/plain")])
    assert outgoing(sent, None).getall("Content-Type") == ["application/json"]
    with pytest.raises(ValueError, match="never passes"):
        outgoing(sent, None, {}, "content-type")


def test_repeated_headers_stay_repeated():
    headers = CIMultiDictProxy(CIMultiDict([("Anthropic-Beta", "a"), ("anthropic-beta", "b")]))
    assert outgoing(headers, None).getall("anthropic-beta") == ["a", "b"]
    assert incoming(CIMultiDict([("CF-Ray", "a"), ("cf-ray", "b")])).getall("cf-ray") == ["a", "b"]


def test_an_idempotency_key_is_replaced_by_one_of_the_account_and_the_key():
    def sent(account_id, value, name="Idempotency-Key"):
        return parsed(outgoing_lines([(name.encode(), value.encode())], FIXED, account_id))["Idempotency-Key"]

    one = sent("acc_1", "order-7")
    assert re.fullmatch("[0-9a-f]{64}", one)
    assert sent("acc_1", "order-7", "idempotency-key") == one
    assert len({one, sent("acc_2", "order-7"), sent("acc_1", "order-8"), sent("acc_1o", "rder-7")}) == 4
    assert b"idempotency" not in outgoing_lines([(b"Idempotency-Key", b" ")], FIXED, "acc_1").lower()


def test_a_provider_s_entry_adds_to_what_passes():
    sent = outgoing(CIMultiDict(CLIENT), None, {"X-Title": "ours"}, "http-referer", "X-Title")
    assert (sent["HTTP-Referer"], sent["X-Title"]) == ("https://app.example", "ours")
    assert "HTTP-Referer" not in outgoing(CIMultiDict(CLIENT), None)
    for name in ("Authorization", "api-key", "X-Admin-Key", "cookie", "content-length", "proxy-x", "idempotency-key"):
        with pytest.raises(ValueError, match="never passes"):
            Fixed.of(None, {}, [name])


def test_of_a_provider_s_headers_only_those_on_the_list_pass():
    provider = CIMultiDict(
        {
            "Content-Type": "text/event-stream",
            "Content-Encoding": "gzip",
            "Content-Length": "10",
            "Transfer-Encoding": "chunked",
            "Connection": "keep-alive",
            "Date": "Mon, 01 Jan 2024 00:00:00 GMT",
            "Server": "cloudflare",
            "Set-Cookie": "__cf_bm=1",
            "Access-Control-Allow-Origin": "*",
            "Access-Control-Allow-Credentials": "true",
            "Refresh": "0; url=https://evil.example",
            "Location": "https://evil.example",
            "Authorization": "Bearer sk-provider",
            "WWW-Authenticate": "Basic",
            "Content-Security-Policy": "default-src *",
            "Link": "</evil>; rel=preload",
            "X-Accel-Redirect": "/internal/secret",
            "X-Anything": "1",
            "Cache-Control": "no-cache",
            "CF-Ray": "8a",
            "Alt-Svc": 'h3=":443"',
            "Strict-Transport-Security": "max-age=1",
            "OpenAI-Organization": "org-operator",
            "anthropic-organization-id": "operator",
            "openai-processing-ms": "120",
            "openai-version": "2020-10-01",
            "X-Request-ID": "req_provider",
            "X-RateLimit-Limit-Requests": "10000",
            "x-ratelimit-reset-tokens": "6m0s",
            "anthropic-ratelimit-requests-limit": "50",
            "x-metergate-balance-usd": "1000000.00",
            "x-upstream-request-id": "someone_elses",
            "Retry-After": "3",
            "x-should-retry": "true",
        }
    )
    assert dict(incoming(provider)) == {
        "Content-Type": "text/event-stream",
        "Content-Encoding": "gzip",
        "openai-processing-ms": "120",
        "openai-version": "2020-10-01",
        "x-upstream-request-id": "req_provider",
        "Retry-After": "3",
        "x-should-retry": "true",
        "Cache-Control": "no-cache",
        "CF-Ray": "8a",
        "x-upstream-ratelimit-limit-requests": "10000",
        "x-upstream-ratelimit-reset-tokens": "6m0s",
        "x-upstream-anthropic-ratelimit-requests-limit": "50",
    }


def test_anthropic_s_request_id_is_the_upstream_s():
    assert dict(incoming(CIMultiDict({"request-id": "req_1"}))) == {"x-upstream-request-id": "req_1"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*CLIENT, "X-Other", "x-METERGATE-x", "x-forwarded-proto", "proxy-x"]).flatmap(
                lambda name: st.sampled_from([name, name.upper(), name.lower(), name.title()])
            ),
            st.sampled_from(["mg_secret", "close", "x-other"]),
        )
    )
)
def test_no_client_s_credential_goes_upstream_however_it_is_written(pairs):
    sent = outgoing(CIMultiDict(pairs), "sk-provider")
    assert sent.getall("authorization") == ["Bearer sk-provider"]
    for name in ("x-api-key", "x-goog-api-key", "cookie", "x-metergate-x", "openai-organization", "host"):
        assert name not in sent
    for name in ("api-key", "x-admin-key", "x-auth-token", "referer", "cf-connecting-ip", "x-other"):
        assert name not in sent


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\x00b", b"a\r\nX-Injected: 1\x00"])
async def test_the_server_refuses_control_characters_in_a_client_s_headers(value):
    seen: list[list[tuple[str, str]]] = []

    async def handle(request):
        seen.append(list(request.headers.items()))
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/", handle)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Value: " + value + b"\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400") or answer.startswith(b"HTTP/1.0 400")
    assert seen == []


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\x00b"])
def test_a_configured_header_that_would_end_its_line_is_refused(value):
    with pytest.raises(ValueError, match="line break"):
        Fixed.of(("Authorization", f"Bearer sk-{value}"), {})
    with pytest.raises(ValueError, match="line break"):
        Fixed.of(None, {"x-extra": value})


def test_a_provider_s_key_is_not_shown():
    assert "sk-provider" not in repr(FIXED)


def test_what_the_gateway_looks_at_in_an_answer():
    answered = incoming_lines(
        [(b"Content-Type", b"Text/Event-Stream"), (b"CONTENT-ENCODING", b"GZip"), (b"X-Request-Id", b"req_\xff")]
    )
    assert (answered.content_type, answered.content_encoding) == (b"text/event-stream", "gzip")
    assert answered.request_id == b"req_\xff"
    assert b"x-upstream-request-id: req_\xff\r\n" in answered.lines
