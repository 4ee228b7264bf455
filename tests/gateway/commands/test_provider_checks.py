"""Whether providers answer and take our keys, asked of servers that do or don't."""

import asyncio

import pytest
from aiohttp import web

from gateway.commands.doctor import check_providers
from gateway.config.settings import ProviderConfig, Secret
from tests.support.ports import free_port

KEY = "sk-swordfish"


@pytest.mark.parametrize(
    ("status", "found"), [(200, "ok"), (401, "fail"), (403, "fail"), (404, "warn"), (500, "warn"), (302, "warn")]
)
async def test_what_a_provider_answers(upstream, status, found):
    asked = []

    async def serve(request):
        asked.append((request.method, request.path, request.headers["Authorization"], request.headers["X-Own"]))
        return web.json_response({"said": KEY}, status=status, headers={"Location": "http://127.0.0.1:1/"})

    base_url = await upstream(serve)
    provider = ProviderConfig("mine", "openai", base_url, Secret(KEY), headers={"X-Own": "1"})
    off = ProviderConfig("off", "openai", base_url, off_reason="enabled is false")
    (check,) = await check_providers([provider, off, ProviderConfig("local", "local")], 60)
    assert (check.name, check.status) == ("provider mine", found)
    assert bool(check.mend) == (found != "ok")
    assert KEY not in str(check)
    assert asked == [("GET", "/v1/models", f"Bearer {KEY}", "1")]


async def test_a_provider_that_is_silent_or_away(upstream):
    async def silent(request):
        await asyncio.sleep(3600)
        raise AssertionError

    providers = [
        ProviderConfig("silent", "openai", await upstream(silent), Secret(KEY)),
        ProviderConfig("away", "openai", f"http://127.0.0.1:{free_port()}/v1", Secret(KEY)),
    ]
    first, second = await check_providers(providers, 0.5)
    assert (first.status, second.status) == ("fail", "fail")
    assert "no answer within 0.5 s" in first.message
    assert KEY not in f"{first} {second}"
