"""The request log: a line of JSON for each metered request, in a file or on stdout. Off unless it is asked for.

A thread writes, so that a slow disk or a reader that stands still holds no request up; between it and the event loop
stand at most so many lines as are allowed, and what comes above is dropped and counted. No line holds a body or a
secret. A file that was moved away (rotated) is opened anew within a second.
"""

import logging
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import msgspec

from billing.money import format_usd
from billing.times import rfc3339

logger = logging.getLogger(__name__)

STDOUT: Final = "-"
BATCH: Final = 500
LOOK_EVERY_S: Final = 1.0
CLOSE_S: Final = 2.0
"""How long the lines that wait may take when the process ends."""
_STDOUT_FD: Final = 1
_MODE: Final = 0o600


class Line(msgspec.Struct):
    """One request. Times in milliseconds, `at_ms` Unix; amounts in nano-USD, shown as decimals. None is not known."""

    at_ms: int
    request_id: str
    account_id: str | None
    key_id: str | None
    key_prefix: str | None
    endpoint: str
    model: str | None
    provider: str | None
    status: int
    code: str | None
    stream: bool | None
    latency_ms: int
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    charged_nano: int = 0
    note: str | None = None

    def encoded(self) -> bytes:
        """A line of JSON."""
        said = {
            "time": rfc3339(datetime.fromtimestamp(self.at_ms / 1000, UTC)),
            "request_id": self.request_id,
            "account_id": self.account_id,
            "key_id": self.key_id,
            "key_prefix": self.key_prefix,
            "endpoint": self.endpoint,
            "model": self.model,
            "provider": self.provider,
            "status": self.status,
            "code": self.code,
            "stream": self.stream,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": format_usd(self.cost_nano),
            "charged_usd": format_usd(self.charged_nano),
            "latency_ms": self.latency_ms,
            "note": self.note,
        }
        return msgspec.json.encode(said) + b"\n"


class RequestLog:
    """Writes lines to a file, or to stdout for `-`. Raises OSError where the file can't be opened."""

    def __init__(self, path: str, most_waiting: int) -> None:
        self._path = None if path == STDOUT else Path(path)
        self._fd = _STDOUT_FD if self._path is None else open_log(self._path)
        self._most_waiting = most_waiting
        self._lines: SimpleQueue[Line | None] = SimpleQueue()
        self._refused = 0
        self._lost = 0
        self._looked_s = time.monotonic()
        self._thread = threading.Thread(target=self._write_for_ever, name="request-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written: too many waited, or the file took none."""
        return self._refused + self._lost

    def write(self, line: Line) -> None:
        """Have a line written soon, unless too many wait. Never waits."""
        if self._lines.qsize() >= self._most_waiting:
            self._refused += 1
        else:
            self._lines.put(line)

    def close(self) -> None:
        """Write what waits, for at most CLOSE_S."""
        self._lines.put(None)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive() and self._path is not None:
            os.close(self._fd)

    def _write_for_ever(self) -> None:
        going_on = True
        while going_on:
            batch = [self._lines.get()]
            with suppress(Empty):
                while len(batch) < BATCH:
                    batch.append(self._lines.get_nowait())
            going_on = None not in batch
            self._put([line for line in batch if line is not None])

    def _put(self, batch: list[Line]) -> None:
        if not batch:
            return
        try:
            self._look()
            left = memoryview(b"".join(line.encoded() for line in batch))
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            if not self._lost:
                logger.warning("the request log can't be written: %s", error.strerror)
            self._lost += len(batch)

    def _look(self) -> None:
        """Open the file anew where another one, or none, has its name."""
        now_s = time.monotonic()
        if self._path is None or now_s < self._looked_s + LOOK_EVERY_S:
            return
        self._looked_s = now_s
        own = os.fstat(self._fd)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            named = None
        if named is None or (named.st_dev, named.st_ino) != (own.st_dev, own.st_ino):
            fresh = open_log(self._path)
            os.close(self._fd)
            self._fd = fresh


def open_log(path: Path) -> int:
    """The file to append to, made with mode 600 where it is missing. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
