"""`deploy/caddy`: Debian's Caddy ends TLS in front of a gateway, with the shipped file and a CA of its own."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from aiohttp import web

from gateway.config.environment import parse_networks
from gateway.config.settings import Settings
from tests.gateway.conftest import ADMIN_KEY, Customer, Gateway, MakeStores, chat, provider_at
from tests.gateway.proxy.test_response_sockets import events
from tests.support.answering import DONE, SSE, WORDS, until, usage_chunk
from tests.support.commands import CHECKOUT
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.response_sockets import CREATE, PATH

pytestmark = pytest.mark.slow
FILE: Final = CHECKOUT / "deploy" / "caddy" / "Caddyfile"


@dataclass
class Behind:
    """A gateway behind Caddy, and its provider."""

    url: str
    plain_url: str
    gateway: Gateway
    customer: Customer
    session: aiohttp.ClientSession
    go_on: asyncio.Event


@asynccontextmanager
async def caddy(folder: Path, upstream: str, ports: tuple[int, int]) -> AsyncIterator[ssl.SSLContext]:
    """Run Caddy by the shipped file on ports of the test's own; what trusts its CA."""
    own = f"admin off\nstorage file_system {folder}/caddy\nskip_install_trust\n"
    own += f"http_port {ports[0]}\nhttps_port {ports[1]}\ndefault_bind 127.0.0.1\n"
    (folder / "Caddyfile").write_text(f"{{\n{own}}}\nimport {FILE}\n")
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    environ = {"METERGATE_UPSTREAM": upstream, "METERGATE_DOMAIN": "localhost", "HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=log, stderr=subprocess.STDOUT)
    root = folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    try:
        await until(lambda: process.returncode is not None or root.exists())
        assert process.returncode is None, f"it has ended: {folder / 'log'}"
        yield ssl.create_default_context(cafile=str(root))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
async def behind(on_stores: MakeStores, tmp_path: Path) -> AsyncIterator[Behind]:
    go_on, ports = asyncio.Event(), free_ports(2)
    plain_url, url = (f"{scheme}://localhost:{port}" for scheme, port in zip(("http", "https"), ports, strict=True))

    async def provided(request: web.Request) -> web.StreamResponse:
        """The first words of an answer, and the rest once the test says so."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            for each in events():
                await socket.send_str(json.dumps(each))
            await socket.close()
            return socket
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await response.write(WORDS[0])
        await go_on.wait()
        for piece in (*WORDS[1:], usage_chunk(), DONE):
            await response.write(piece)
        await response.write_eof()
        return response

    async with AsyncExitStack() as stack:
        make = await stack.enter_async_context(on_stores())
        provider = await stack.enter_async_context(provider_at(provided))

        def change(settings: Settings) -> Settings:
            openai = replace(settings.providers["openai"], dialects={"responses_websocket": provider})
            return replace(
                settings,
                providers={**settings.providers, "openai": openai},
                trusted_proxies=parse_networks("127.0.0.1") or (),
                identity=msgspec.structs.replace(settings.identity, public_url=url),
            )

        gateway = await make(provider, change=change, failed_attempts=3)
        secure = await stack.enter_async_context(caddy(tmp_path, urlsplit(gateway.url).netloc, (ports[0], ports[1])))
        connector = aiohttp.TCPConnector(ssl=secure)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        yield Behind(url, plain_url, gateway, await gateway.customer(), session, go_on)


async def test_console_streams_and_websockets_pass_through_tls(behind: Behind) -> None:
    await until(lambda: served(behind))
    await plain_http_leads_to_tls(behind)
    await the_operator_signs_in(behind)
    await a_stream_comes_piece_by_piece(behind)
    await a_websocket_is_answered(behind)
    await metrics_are_not_shown_and_each_client_counts_alone(behind)


async def served(behind: Behind) -> bool:
    try:
        async with behind.session.get(f"{behind.url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def plain_http_leads_to_tls(behind: Behind) -> None:
    async with behind.session.get(f"{behind.plain_url}/console", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"].startswith("https://localhost")) == (308, True)


async def the_operator_signs_in(behind: Behind) -> None:
    headers = {"X-Admin-Key": ADMIN_KEY}
    async with behind.session.post(f"{behind.url}/api/admin/login-links", headers=headers) as answer:
        assert answer.status == 201, await answer.text()
        link = (await answer.json())["url"]
    assert link.startswith(f"{behind.url}/console/enter/")
    async with behind.session.post(link, headers={"Origin": behind.url}, allow_redirects=False) as answer:
        assert answer.status == 303
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-mg_session=o.")
        assert "Secure" in cookie
    async with behind.session.get(f"{behind.url}/console/operator") as answer:
        assert (answer.status, "<!doctype html>" in (await answer.text()).lower()) == (200, True)
        assert "max-age" in answer.headers["Strict-Transport-Security"]


async def a_stream_comes_piece_by_piece(behind: Behind) -> None:
    """What the provider has not written yet can't be waited for: the first piece is not buffered."""
    headers = {"Authorization": f"Bearer {behind.customer.key}"}
    body: Any = chat(model="gpt-4o-mini", stream=True)
    async with behind.session.post(f"{behind.url}/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        async with asyncio.timeout(60):
            assert b"Good" in await answer.content.readline()
        behind.go_on.set()
        assert (await answer.content.read()).endswith(DONE)


async def a_websocket_is_answered(behind: Behind) -> None:
    headers = {"Authorization": f"Bearer {behind.customer.key}"}
    async with behind.session.ws_connect(behind.url + PATH, headers=headers) as socket:
        await socket.send_str(json.dumps(CREATE))
        kinds: list[str] = []
        while not kinds or kinds[-1] not in ("response.completed", "error"):
            kinds.append(json.loads(await socket.receive_str(timeout=60))["type"])
        assert kinds[-1] == "response.completed"


async def metrics_are_not_shown_and_each_client_counts_alone(behind: Behind) -> None:
    async with behind.session.get(f"{behind.url}/metrics", headers={"X-Admin-Key": ADMIN_KEY}) as answer:
        assert answer.status == 404

    async def guess(forged: str) -> int:
        headers = {"Authorization": "Bearer mg_nobodys", "X-Forwarded-For": forged}
        async with behind.session.get(f"{behind.url}/v1/key", headers=headers) as answer:
            return answer.status

    # Whatever a client says it is: the address that Caddy has seen counts.
    assert [await guess(f"203.0.113.{number}") for number in range(5)] == [401, 401, 401, 429, 429]
