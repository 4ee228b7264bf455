"""The metered endpoints: the course of each request (`gateway.proxy.course`) is begun, and awaited where a caller can
only wait."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from gateway.proxy.course import Course
from gateway.proxy.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.server.exchange import Exchange


class Proxy(Serving):
    """Serves requests to metered endpoints."""

    def begin(self, exchange: Exchange, on_over: Callable[[], None]) -> Course:
        """Begin to serve a request; `on_over` is called once nothing more is written to its client."""
        course = Course(self, exchange, on_over)
        course.begin()
        return course

    async def handle(self, exchange: Exchange) -> None:
        """Serve one request, or refuse it. It is cancelled where the client leaves."""
        course = Course(self, exchange)
        course.begin()
        if course.is_over:
            return
        over = asyncio.get_running_loop().create_future()
        course.on_over = partial(_wake, over)
        try:
            await over
        except asyncio.CancelledError:
            course.left()
            raise


def _wake(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)
