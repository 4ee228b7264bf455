"""What passes between client and provider, what never does, and that the HTTP library keeps CR, LF and NUL out."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.headers import Fixed, client_key
from gateway.headers import incoming as incoming_lines
from gateway.headers import outgoing as outgoing_lines

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


def raw(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def parsed(lines: bytes) -> CIMultiDict[str]:
    assert not lines or lines.endswith(b"\r\n")
    pairs = [line.partition(": ") for line in lines.decode().split("\r\n")[:-1]]
    return CIMultiDict([(name, value) for name, _, value in pairs])


def outgoing(
    headers: CIMultiDict[str] | CIMultiDictProxy[str], key: str | None, extra: dict[str, str] | None = None
) -> CIMultiDict[str]:
    return parsed(outgoing_lines(raw(headers), Fixed.of(key, extra or {})))


def incoming(headers: CIMultiDict[str] | CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return parsed(incoming_lines(raw(headers)).lines)


def test_a_client_s_headers_pass_but_for_its_credentials_and_this_hop() -> None:
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


def test_without_a_provider_key_no_authorization_is_sent() -> None:
    assert "Authorization" not in outgoing(CIMultiDict(CLIENT), None)


def test_extra_headers_replace_the_client_s() -> None:
    headers = CIMultiDict([("Anthropic-Version", "old"), ("anthropic-version", "older"), ("x-api-key", "mg_client")])
    sent = outgoing(headers, None, {"anthropic-version": "2023-06-01", "x-api-key": "sk-provider"})
    assert sent.getall("anthropic-version") == ["2023-06-01"]
    assert sent.getall("x-api-key") == ["sk-provider"]


@pytest.mark.parametrize("value", ["x-hop, close", "X-Hop", "close,  x-hop ,", "keep-alive, X-HOP"])
def test_what_connection_names_is_for_one_hop(value: str) -> None:
    headers = CIMultiDict({"Connection": value, "X-Hop": "1", "X-End": "2"})
    assert dict(outgoing(headers, None)) == {"X-End": "2", "Accept-Encoding": "identity"}
    assert dict(incoming(headers)) == {"X-End": "2"}


def test_several_connection_headers_are_one_list() -> None:
    headers = CIMultiDict([("Connection", "close"), ("Connection", "x-hop"), ("x-hop", "1")])
    assert "x-hop" not in outgoing(headers, None)


def test_connection_can_t_remove_the_provider_s_key() -> None:
    headers = CIMultiDict({"Connection": "authorization, accept-encoding"})
    assert dict(outgoing(headers, "sk-provider")) == {
        "Accept-Encoding": "identity",
        "Authorization": "Bearer sk-provider",
    }


def test_repeated_headers_stay_repeated() -> None:
    headers = CIMultiDictProxy(CIMultiDict([("X-Tag", "a"), ("x-tag", "b")]))
    assert outgoing(headers, None).getall("x-tag") == ["a", "b"]
    assert incoming(headers).getall("x-tag") == ["a", "b"]


def test_a_provider_s_headers_pass_but_for_its_framing_cookies_and_limits() -> None:
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
    }


def test_anthropic_s_request_id_is_the_upstream_s() -> None:
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
def test_no_client_s_credential_goes_upstream_however_it_is_written(pairs: list[tuple[str, str]]) -> None:
    sent = outgoing(CIMultiDict(pairs), "sk-provider")
    assert sent.getall("authorization") == ["Bearer sk-provider"]
    for name in ("x-api-key", "x-goog-api-key", "cookie", "x-metergate-x", "openai-organization", "host"):
        assert name not in sent


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer mg_a"}, "mg_a"),
        ({"authorization": "bEaReR   mg_a "}, "mg_a"),
        ({"Authorization": "Bearer mg_a", "x-api-key": "mg_b", "x-goog-api-key": "mg_c"}, "mg_a"),
        ({"x-api-key": "mg_b", "x-goog-api-key": "mg_c"}, "mg_b"),
        ({"X-Goog-Api-Key": "mg_c"}, "mg_c"),
        ({"Authorization": "Basic bWc6", "x-api-key": "mg_b"}, "mg_b"),
        ({"Authorization": "Bearer ", "x-api-key": "mg_b"}, "mg_b"),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "mg_a"}, None),
        ({"Authorization": "", "x-api-key": " "}, None),
        ({}, None),
    ],
)
def test_the_client_s_key(headers: dict[str, str], key: str | None) -> None:
    assert client_key(CIMultiDictProxy(CIMultiDict(headers))) == key


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\x00b", b"a\r\nX-Injected: 1\x00"])
async def test_the_server_refuses_control_characters_in_a_client_s_headers(value: bytes) -> None:
    seen: list[list[tuple[str, str]]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
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
def test_a_configured_header_that_would_end_its_line_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Fixed.of(f"sk-{value}", {})
    with pytest.raises(ValueError, match="line break"):
        Fixed.of(None, {"x-extra": value})


def test_a_provider_s_key_is_not_shown() -> None:
    assert "sk-provider" not in repr(Fixed.of("sk-provider", {}))


def test_what_the_gateway_looks_at_in_an_answer() -> None:
    answered = incoming_lines(
        [(b"Content-Type", b"Text/Event-Stream"), (b"CONTENT-ENCODING", b"GZip"), (b"X-Request-Id", b"req_\xff")]
    )
    assert (answered.content_type, answered.content_encoding) == (b"text/event-stream", "gzip")
    assert answered.request_id == b"req_\xff"
    assert b"x-upstream-request-id: req_\xff\r\n" in answered.lines
