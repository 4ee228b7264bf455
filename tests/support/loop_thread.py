"""An event loop in a thread, for what has to go on between tests and outlive their loops."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

# Nothing there takes longer.
TIMEOUT_S = 300.0

T = TypeVar("T")


class LoopThread:
    """The thread. It ends with the process at the latest."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers of the tests", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` there to its end, for at most TIMEOUT_S."""
        return self.begin(work).result(TIMEOUT_S)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `work` there, beside whatever else goes on."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
