"""What is kept of a request beside its debit: refusals, to be looked up, and a line in the request log.

One line for each request of a metered endpoint, whatever became of it: answered, refused, or left by its client, then
once what it costs is known. Nothing here waits.

The request log is a file or stdout, a line of JSON each, off unless it is asked for. A thread writes, so that a slow
disk, or a reader of stdout that does not read, delays no request. At most as many lines wait for it as are allowed;
more are dropped and counted. No line holds a body or a secret. A file that was moved away (rotated) is opened anew
within a second.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.money import format_usd
from billing.refused_requests import RefusedRequest, RefusedRequests
from billing.times import rfc3339
from gateway.proxy.context import CLIENT_GONE, CUT_STATUS, Reason, RequestContext
from gateway.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from billing.principals import Principal
    from gateway.dialects.facts import ParsedRequest

logger = logging.getLogger(__name__)

STDOUT: Final = "-"
BATCH: Final = 500
LOOK_EVERY_S: Final = 1.0
# How long the lines that wait may take when the process ends.
CLOSE_S: Final = 2.0
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
        """Return a line of JSON."""
        charge_usd = format_usd(self.charged_nano)
        fields = {
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
            "charge_usd": charge_usd,
            "charged_usd": charge_usd,
            "latency_ms": self.latency_ms,
            "note": self.note,
        }
        return msgspec.json.encode(fields) + b"\n"


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
        """Return lines that were not written: too many waited, or the file took none."""
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
            self._reopen_moved()
            left = memoryview(b"".join(line.encoded() for line in batch))
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            if not self._lost:
                logger.warning("the request log can't be written: %s", error.strerror)
            self._lost += len(batch)

    def _reopen_moved(self) -> None:
        """Open the file anew where another file, or none, has its name."""
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
    """Open the file to append to, made with mode 600 where it is missing. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)


# The code of what a provider refused; no answer has it, since the provider's own was passed on.
PASSED_ON: Final = "provider_refused"
MODEL_CHARACTERS: Final = 200


class Records:
    """Keeps both. `log` is None where there is none; `clock` is in Unix seconds."""

    __slots__ = ("_clock", "_refused", "log")

    def __init__(
        self, refused: RefusedRequests, log: RequestLog | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._refused = refused
        self.log = log
        self._clock = clock

    def refused(
        self,
        request_id: str,
        endpoint: str,
        principal: Principal | None,
        parsed: ParsedRequest | None,
        refusal: Refusal,
        started_s: float,
    ) -> None:
        """Keep a request that was refused before it was held; `started_s` is monotonic."""
        model = None if parsed is None else parsed.model[:MODEL_CHARACTERS]
        self._note(request_id, endpoint, principal, model, refusal)
        if self.log is not None:
            line = Line(
                at_ms=int(self._clock() * 1000),
                request_id=request_id,
                account_id=None if principal is None else principal.account_id,
                key_id=None if principal is None else principal.key_id,
                key_prefix=None if principal is None else principal.key_prefix,
                endpoint=endpoint,
                model=model,
                provider=None,
                status=refusal.status,
                code=refusal.code,
                stream=None if parsed is None else parsed.stream,
                latency_ms=round((time.monotonic() - started_s) * 1000),
            )
            self.log.write(line)

    def refused_later(self, context: RequestContext, refusal: Refusal) -> None:
        """Keep a request that was held, and refused for what its provider did."""
        self._note(context.request_id, context.endpoint, context.principal, context.route.entry, refusal)

    def passed_on(self, context: RequestContext, status: int) -> None:
        """Keep a request that its provider refused, and whose client got the provider's own answer."""
        # Not the provider's words: they may repeat what the client sent.
        route, name = context.route, context.route.provider.name
        message = f"The provider {name} answered HTTP {status}, which was passed on. Nothing was charged."
        details = {"provider": name, "provider_model": route.model, "attempts": context.attempts}
        refusal = Refusal(status, PASSED_ON, message, extra=details)
        self._note(context.request_id, context.endpoint, context.principal, route.entry, refusal)

    def answered(self, context: RequestContext, status: int, code: str | None = None) -> None:
        """Log a request that is over, once; not one that goes on after its client has left."""
        if self.log is None or context.logged:
            return
        context.logged = True
        principal, debit = context.principal, context.charged
        self.log.write(
            Line(
                at_ms=int(self._clock() * 1000),
                request_id=context.request_id,
                account_id=principal.account_id,
                key_id=principal.key_id,
                key_prefix=principal.key_prefix,
                endpoint=context.endpoint,
                model=context.route.entry,
                provider=context.route.provider.name,
                status=status,
                code=code,
                stream=context.parsed.stream,
                input_tokens=0 if debit is None else debit.input_tokens,
                output_tokens=0 if debit is None else debit.output_tokens,
                cost_nano=0 if debit is None else debit.cost_nano,
                charged_nano=0 if debit is None else debit.charged_nano,
                latency_ms=round((time.monotonic() - context.started_s) * 1000),
                note=None if debit is None else debit.note,
            )
        )

    def left(self, context: RequestContext, reason: Reason) -> None:
        """Log a request that ended without its client, for a reason, unless it goes on without it."""
        self.answered(context, CUT_STATUS.get(reason, CLIENT_GONE))

    def going_on(self, context: RequestContext, work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """Return work that goes on after the client has left, with the line of the log written at its end."""
        if self.log is None:
            return work
        context.logged = True
        return self._going_on(context, work)

    async def _going_on(self, context: RequestContext, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            context.logged = False
            self.left(context, context.cut or "client_gone")

    def _note(
        self, request_id: str, endpoint: str, principal: Principal | None, model: str | None, refusal: Refusal
    ) -> None:
        self._refused.note(
            RefusedRequest(
                id=request_id,
                at_ms=int(self._clock() * 1000),
                account_id=None if principal is None else principal.account_id,
                key_id=None if principal is None else principal.key_id,
                endpoint=endpoint,
                model=model,
                status=refusal.status,
                code=refusal.code,
                message=refusal.message,
                details=refusal.extra,
                hint=refusal.hint,
            )
        )
