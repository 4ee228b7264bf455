"""What is kept of a request beside its debit: refusals, to be looked up, and a line in the request log.

One line for each request of a metered endpoint, whatever became of it: answered, refused, or left by its client, then
once what it costs is known. Nothing here waits.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from billing.principals import Principal
from billing.refused import RefusedRequest, RefusedRequests
from gateway.dialects.base import ParsedRequest
from gateway.proxy.context import CLIENT_GONE, RequestContext
from gateway.proxy.request_log import Line, RequestLog
from gateway.server.refusals import Refusal

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
        """A request that was refused before it was held; `started_s` is monotonic."""
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
        """A request that was held, and refused for what its provider did."""
        self._note(context.request_id, context.endpoint, context.principal, context.route.entry, refusal)

    def answered(self, context: RequestContext, status: int, code: str | None = None) -> None:
        """A request that is over, unless it was said already; not one whose client is gone, which goes on."""
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

    def left(self, context: RequestContext) -> None:
        """A request that ended because its client is gone, unless it goes on without."""
        self.answered(context, CLIENT_GONE)

    def going_on(self, context: RequestContext, work: Coroutine[Any, Any, None]) -> Coroutine[Any, Any, None]:
        """What goes on without the client that is gone; the line is written at its end."""
        if self.log is None:
            return work
        context.logged = True
        return self._going_on(context, work)

    async def _going_on(self, context: RequestContext, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            context.logged = False
            self.left(context)

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
            )
        )
