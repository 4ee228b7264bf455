"""Whether providers answer, and take our keys: one cheap call to each, for `metergate doctor --providers`."""

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp

from gateway.commands.checks import Check
from gateway.config.settings import ProviderConfig

MODELS_PATH: Final = "/models"
"""Lists models in OpenAI's API and in those like it; it costs nothing."""
REFUSED: Final = (401, 403)
UNKNOWN: Final = (404, 405, 501)


async def check_providers(providers: Iterable[ProviderConfig], timeout_s: float) -> list[Check]:
    """One finding for each provider that is on and elsewhere. Never shows a key, a header or an answer's body."""
    asked = [provider for provider in providers if provider.enabled and provider.base_url]
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()) as session:
        return list(await asyncio.gather(*(_check(session, provider, timeout_s) for provider in asked)))


async def _check(session: aiohttp.ClientSession, provider: ProviderConfig, timeout_s: float) -> Check:
    name = f"provider {provider.name}"
    headers = dict(provider.headers)
    if provider.api_key is not None:
        headers["Authorization"] = f"Bearer {provider.api_key.reveal()}"
    url = provider.base_url + MODELS_PATH
    try:
        async with session.get(url, headers=headers, allow_redirects=False) as answer:
            status = answer.status
    except TimeoutError:
        mend = "See that this machine may reach it, or give --timeout more seconds."
        return Check(name, "fail", f"{url}: no answer within {timeout_s:g} s", mend)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Check(
            name, "fail", f"{url}: {type(error).__name__}", "Correct its base_url, or let this machine reach it."
        )
    said = f"{url}: HTTP {status}"
    if status in REFUSED:
        return Check(name, "fail", f"{said}: the key is refused", "Set the provider's key anew: it may be revoked.")
    if status in UNKNOWN:
        return Check(
            name, "warn", f"{said}: it is there, and lists no models", "Try a request: the key was not checked."
        )
    if not 200 <= status < 300:
        return Check(name, "warn", f"{said}: it is there, and does not answer well", "See the provider's status page.")
    return Check(name, "ok", f"{said}: the key is taken" if provider.api_key is not None else said)
