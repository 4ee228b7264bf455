"""Asking a provider's API of usage and costs: bounded in time, size and attempts. Redirects are not followed, because
they could carry a key elsewhere, and no message says what was sent or answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import aiohttp
from yarl import URL

from billing.provider_bills.lines import BillUnavailable

TIMEOUT_S: Final = 30.0
ANSWER_BYTES: Final = 32 * 1024 * 1024
ATTEMPTS: Final = 3
FIRST_PAUSE_S: Final = 0.5
"""Before the second attempt; it doubles with each."""
TRIED_AGAIN: Final = frozenset((429, 500, 502, 503, 504, 529))
_REFUSED: Final = frozenset((401, 403))


async def fetch(url: str, headers: Mapping[str, str]) -> bytes:
    """Return the body of an answer with the status 200. Raises `BillUnavailable`."""
    why, pause_s = "", FIRST_PAUSE_S
    jar, timeout = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=TIMEOUT_S)
    sent = {"Accept": "application/json", "User-Agent": "metergate", **headers}
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=jar) as session:
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                status, body = await _asked(session, url, sent)
                if status == 200:
                    return body
                why = f"it answers with status {status}"
                if status in _REFUSED:
                    raise BillUnavailable("The provider refuses the billing key: it needs an admin or management key.")
                if status not in TRIED_AGAIN:
                    break
            except TimeoutError:
                why = f"it does not answer within {TIMEOUT_S:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                why = f"it can't be reached ({type(error).__name__})"
            if attempts_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
    raise BillUnavailable(f"The provider's API of usage and costs can't be read: {why}.")


async def _asked(session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    async with session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > ANSWER_BYTES:
                raise BillUnavailable(f"An answer of the provider is larger than {ANSWER_BYTES} bytes.")
        return response.status, bytes(body)
