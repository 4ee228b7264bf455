"""The transport through the environment's proxies."""

import asyncio
import socket
import ssl
from contextlib import suppress

import pytest
from aiohttp import web

from gateway.upstream.base import UpstreamCut, UpstreamUnreachable
from gateway.upstream.transport import HttpTransport
from tests.support.edge_servers import on_both_loops
from tests.support.providers import (
    BOUND_S,
    Answering,
    app_serving,
    outcome,
    post,
    serving,
    take_request,
)
from tests.support.tls import make_certificate


async def test_the_environment_s_proxy_is_used_with_its_credentials(monkeypatch, transport):
    heads = []

    async def proxy(reader, writer):
        heads.append(await take_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(proxy) as url:
        monkeypatch.setenv("http_proxy", f"http://user:pass@{url.split('/')[2]}")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (
            await outcome(
                transport, post("http://provider.invalid/v1/x", headers={"Authorization": "Bearer sk-provider"})
            )
            == b"ok"
        )
        assert heads[0].startswith(b"POST http://provider.invalid/v1/x HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in heads[0]
        assert b"Authorization: Bearer sk-provider\r\n" in heads[0]
        assert await outcome(transport, post(url)) == b"ok"
        assert heads[1].startswith(b"POST /v1/chat/completions")
        assert b"Proxy-Authorization" not in heads[1]


@on_both_loops
async def test_a_provider_with_tls_is_reached_by_a_tunnel(monkeypatch, tmp_path_factory):
    """It carries all requests of its connection, and their failures; the provider gets nothing of the proxy's."""
    key, certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    of_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    of_server.load_cert_chain(certificate, key)
    of_client = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(ssl, "create_default_context", lambda: of_client)
    asked = []
    replies = [b"HTTP/1.1 200 OK\r\n\r\n"] * 2 + [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b""]

    async def provider(reader, writer):
        for length in (5, 9):
            assert b"Proxy-Authorization" not in await take_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nwhole" % length)
        writer.close()

    async def proxy(reader, writer):
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        reply = replies.pop(0)
        writer.write(reply)
        if b" 200 " in reply:
            from_provider, to_provider = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, to_provider), _copy(from_provider, writer))

    server = await asyncio.start_server(provider, "127.0.0.1", 0, ssl=of_server)
    port = server.sockets[0].getsockname()[1]
    transport = HttpTransport(connections=1, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    async with server, serving(proxy) as url:
        monkeypatch.setenv("https_proxy", f"http://user:pass@{url.split('/')[2]}")
        monkeypatch.delenv("no_proxy")
        assert await outcome(transport, post("https://localhost:444/v1/x")) == b"whole"
        with pytest.raises(UpstreamCut):
            await outcome(transport, post("https://localhost:444/v1/y"))
        assert len(asked) == 1
        assert asked[0].startswith(b"CONNECT localhost:444 HTTP/1.1\r\nHost: localhost:444\r\n")
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in asked[0]
        for host, why in (
            ("other.invalid", "certificate"),
            ("localhost", "its proxy answers 407"),
            ("localhost", "no answer"),
        ):
            with pytest.raises(UpstreamUnreachable, match=why):
                await outcome(transport, post(f"https://{host}/v1/x"))
        assert replies == []
    await transport.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


@pytest.mark.parametrize("taken_up", [False, True])
@pytest.mark.parametrize("size", [4, 500_000])
async def test_a_cancelled_send_through_a_proxy_leaves_its_answer_too(monkeypatch, transport, size, taken_up):
    proxy = Answering(b"Connection: close", taken_up=taken_up)
    async with serving(proxy.serve) as url:
        monkeypatch.setenv("http_proxy", url.rpartition("/v1")[0] or url)
        monkeypatch.delenv("no_proxy")
        pending = await proxy.cancelled(transport, post("http://provider.invalid/v1/x", body=b"x" * size))
        if taken_up:
            answer = await proxy.answer(pending)
            assert (answer.status, await answer.read(100)) == (200, b"said")
            assert answer.taken() == b"said"
            answer.release()
        else:
            pending.release()
        await asyncio.wait_for(proxy.stopped.wait(), BOUND_S)


async def test_a_cancelled_send_that_reached_no_proxy_leaves_nothing(monkeypatch, transport):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.delenv("no_proxy")
        request = post("http://provider.invalid/v1/x", body=b"x" * (32 << 20))
        sending = asyncio.create_task(transport.send(request))
        await asyncio.sleep(0.05)  # however far it gets, nobody takes all of it
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert request.pending is None


async def test_netrc_is_not_read(monkeypatch, tmp_path_factory, transport):
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async def handler(request):
        return web.Response(text=request.headers.get("Authorization", "none"))

    async with app_serving(handler) as url:
        assert await outcome(transport, post(url)) == b"none"
        assert await outcome(transport, post(url, headers={"Authorization": "Bearer sk"})) == b"Bearer sk"
