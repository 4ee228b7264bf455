"""Single flight: callers who want the same work at the same time share one run of it."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Work by name. A caller that is cancelled does not cancel the work for the others."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Result]] = {}

    async def run(self, name: Hashable, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return the result of the run under way, or of one begun now. Raises what the work raises."""
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.ensure_future(_awaited(work))
            task.add_done_callback(lambda done: self._ended(name, done))
        return await asyncio.shield(task)

    def _ended(self, name: Hashable, task: asyncio.Task[Result]) -> None:
        del self._running[name]
        if not task.cancelled():
            task.exception()  # retrieved here, though every caller may have been cancelled


async def _awaited(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
