"""The transport through the environment's proxies."""

import asyncio
import socket

import pytest
from aiohttp import web

from gateway.upstream.transport import HttpTransport
from tests.support.providers import (
    BOUND_S,
    Answering,
    app_serving,
    outcome,
    post,
    serving,
    take_request,
)


async def test_the_environment_s_proxy_is_used_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport
) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


@pytest.mark.parametrize("taken_up", [False, True])
@pytest.mark.parametrize("size", [4, 500_000])
async def test_a_cancelled_send_through_a_proxy_leaves_its_answer_too(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport, size: int, taken_up: bool
) -> None:
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


async def test_a_cancelled_send_that_reached_no_proxy_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, transport: HttpTransport
) -> None:
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


async def test_netrc_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, transport: HttpTransport
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("Authorization", "none"))

    async with app_serving(handler) as url:
        assert await outcome(transport, post(url)) == b"none"
        assert await outcome(transport, post(url, headers={"Authorization": "Bearer sk"})) == b"Bearer sk"
