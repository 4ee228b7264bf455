"""Asking an exporter for a page of snapshots over HTTP: bounded in time, size and attempts; certificates are verified,
redirects not followed, nothing is decompressed, and no message says what was sent or answered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import aiohttp

from billing.collect.snapshots import ExporterFailed
from billing.times import rfc3339

if TYPE_CHECKING:
    from billing.collect.snapshots import Checkpoint, Source

WINDOW: Final = "/v1/snapshots/window"
ATTEMPTS: Final = 3
# Before the second attempt; it doubles with each.
FIRST_PAUSE_S: Final = 0.2
TRIED_AGAIN: Final = frozenset((429, 500, 502, 503, 504))


class Exporters:
    """Asks exporters; at most `connections` at once. Connections are opened as they are needed, and closed with it."""

    def __init__(self, *, connections: int, answer_bytes: int, limit: int) -> None:
        """`answer_bytes` is the largest answer, `limit` how many snapshots are asked for at once."""
        self._connections, self._answer_bytes, self._limit = connections, answer_bytes, limit
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def page(self, source: Source, checkpoint: Checkpoint) -> bytes:
        """Return the answer to what a checkpoint asks for next. Raises `ExporterFailed`."""
        pause_s = FIRST_PAUSE_S
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                async with asyncio.timeout(source.timeout_s):
                    status, body = await self._asked(source, checkpoint)
                if status == 200:
                    return body
                why = f"it answers with status {status}"
                if status not in TRIED_AGAIN:
                    raise ExporterFailed(why, restart=checkpoint.cursor is not None)
            except TimeoutError:
                why = f"it does not answer within {source.timeout_s:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                why = f"it can't be reached ({type(error).__name__})"
            if attempts_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        raise ExporterFailed(why)

    async def _asked(self, source: Source, checkpoint: Checkpoint) -> tuple[int, bytes]:
        """Return status and body. Raises `ExporterFailed` for a body that is too large."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections)
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=True, cookie_jar=jar, auto_decompress=False
            )
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "metergate"}
        if source.token is not None:
            headers["Authorization"] = f"Bearer {source.token}"
        since, until = checkpoint.since or datetime.now(UTC), checkpoint.until or datetime.now(UTC)
        asked = {"since": rfc3339(since), "until": rfc3339(until), "limit": str(self._limit)}
        if checkpoint.cursor is not None:
            asked["cursor"] = checkpoint.cursor
        url = f"{source.base_url}{WINDOW}"
        async with self._session.get(url, params=asked, headers=headers, allow_redirects=False) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ExporterFailed("its answer is compressed, which was not asked for", restart=True)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > self._answer_bytes:
                    raise ExporterFailed(f"its answer is larger than {self._answer_bytes} bytes: ask for less at once")
            return response.status, bytes(body)
