"""Samples requests and sends their traces to an OTLP endpoint.

Nothing that a request waits for happens here. Finished traces wait in a queue of at most `most_waiting`; further ones
are dropped and counted. A round sends what waits, `BATCH` at a time. A batch that can't be sent is kept for the next
round, which `Periodic` puts off ever longer; one that the endpoint refuses is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from billing.errors import MetergateError
from billing.notices.delivery import Poster
from billing.work import Periodic
from gateway.tracing.otlp import encode
from gateway.tracing.trace import Trace
from gateway.tracing.trace_context import TRACEPARENT, TRACESTATE, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config.environment import TraceSettings
    from gateway.dialects.declarations import Endpoint

logger = logging.getLogger(__name__)

BATCH: Final = 512
EVERY_S: Final = 1.0
TIMEOUT_S: Final = 10.0
# At the end, for all that waits: below `billing.work.CANCEL_AGAIN_S`, after which nothing would say what is lost.
CLOSE_S: Final = 0.75
_TRACE_BITS: Final = 128
_SPAN_BITS: Final = 64
# By the specification of OTLP/HTTP; every other failure is final for a batch.
RETRIED: Final = frozenset({429, 502, 503, 504})


class ExportFailed(MetergateError):
    """The endpoint takes no traces now. The message says why."""


class Tracer:
    """Traces of one process. `draw` is from 0 up to 1 (excluded); `clock` monotonic, `wall_clock` Unix, in seconds."""

    def __init__(
        self,
        settings: TraceSettings,
        most_waiting: int,
        *,
        bits: Callable[[int], int] = random.getrandbits,  # ids open nothing
        draw: Callable[[], float] = random.random,  # noqa: S311
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._most_waiting = settings, most_waiting
        self._resource = {"service.name": settings.service, "service.version": version("metergate")}
        self._bits, self._draw, self._clock, self._wall_clock = bits, draw, clock, wall_clock
        self._waiting: deque[Trace] = deque()
        self._poster = Poster(private=True, timeout_s=TIMEOUT_S)
        self.dropped = 0
        """Traces that were not sent: too many waited, or the endpoint refused them."""

    def begin(self, headers: Mapping[str, str], endpoint: Endpoint, began_s: float) -> Trace | None:
        """Return the trace of a request, None where it is not sampled: by chance, so that no caller can have all of its
        requests traced, or because its caller is not sampled either."""
        if self._draw() >= self._settings.ratio:
            return None
        caller = parse(headers.get(TRACEPARENT), headers.get(TRACESTATE))
        if caller is not None and not caller.sampled:
            return None
        trace_id = f"{self._bits(_TRACE_BITS) or 1:032x}" if caller is None else caller.trace_id
        return Trace(
            trace_id=trace_id,
            span_id=self._new_span_id(),
            began_s=began_s,
            method=endpoint.method,
            endpoint=endpoint.path,
            new_span_id=self._new_span_id,
            caller=caller,
        )

    def end(self, trace: Trace) -> None:
        """Have a trace sent that is over."""
        trace.ended_s = self._clock()
        trace.end_stage(trace.ended_s)
        if len(self._waiting) >= self._most_waiting:
            self.dropped += 1
        else:
            self._waiting.append(trace)

    def _new_span_id(self) -> str:
        return f"{self._bits(_SPAN_BITS) or 1:016x}"

    def work(self) -> Periodic:
        """Return the loop that sends traces."""
        return Periodic(
            name="traces", every_s=EVERY_S, round=self.send_waiting, close=self.close, expected=(ExportFailed,)
        )

    async def send_waiting(self) -> None:
        """Send what waits. Raises `ExportFailed`; what was not sent waits on."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._send(batch)
            except (ExportFailed, asyncio.CancelledError):  # the process may end meanwhile: `close` sends it
                self._waiting.extendleft(reversed(batch))
                raise
            except Exception:
                self.dropped += len(batch)
                raise

    async def _send(self, batch: list[Trace]) -> None:
        body = encode(batch, self._resource, self._wall_clock() - self._clock())
        headers = {"Content-Type": "application/json", **self._settings.headers}
        outcome = await self._poster.post(self._settings.endpoint, body, headers)
        if outcome.ok:
            return
        if outcome.status is None or outcome.status in RETRIED:
            raise ExportFailed(f"the endpoint of traces: {outcome.error}")
        self.dropped += len(batch)
        logger.warning("the endpoint of traces refused %d of them: %s", len(batch), outcome.error)

    async def close(self) -> None:
        """Send what waits, once, and close the connections."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.send_waiting()
        except (ExportFailed, TimeoutError) as error:
            why = str(error) or "the endpoint of traces does not answer"
            logger.info("%d traces are lost: %s", len(self._waiting), why)
        finally:
            await self._poster.close()
