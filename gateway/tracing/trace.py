"""The trace of one request: which stages it went through, and when. Nothing here waits or knows OTLP.

A request has a span of its own, under its caller's where that sent a `traceparent`, and below it one for admission, one
for each attempt at a provider and one for settlement. Ids are made when a request is sampled, so that a provider can be
told of the attempt's span before that is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.tracing.trace_context import TraceContext, header_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from billing.ledger.debits import Debit

StageName = Literal["admit", "attempt", "settle"]


class Stage(msgspec.Struct, gc=False):
    """A part of a request. Times are seconds of a monotonic clock; `ended_s` is 0 until it is over. Provider and model
    are an attempt's, `error` is why it failed, `wait_s` how long admission waited for running requests."""

    name: StageName
    span_id: str
    began_s: float
    ended_s: float = 0.0
    provider: str | None = None
    model: str | None = None
    error: str | None = None
    wait_s: float = 0.0


class Trace(msgspec.Struct, kw_only=True):
    """A sampled request; `caller` is the span that it belongs under. The fields below `stages` are known at its end."""

    trace_id: str
    span_id: str
    began_s: float
    method: str
    endpoint: str
    new_span_id: Callable[[], str]
    caller: TraceContext | None = None
    stages: list[Stage] = []
    request_id: str = ""
    account_id: str | None = None
    key_id: str | None = None
    status: int = 0
    error: str | None = None
    debit: Debit | None = None
    ended_s: float = 0.0
    first_byte_s: float | None = None

    def begin(self, name: StageName, at_s: float, provider: str | None = None, model: str | None = None) -> Stage:
        """Begin a stage; one that is under way ends."""
        self.end_stage(at_s)
        stage = Stage(name, self.new_span_id(), at_s, provider=provider, model=model)
        self.stages.append(stage)
        return stage

    def end_stage(self, at_s: float, error: str | None = None) -> None:
        """End the stage that is under way, if there is one."""
        if self.stages and not self.stages[-1].ended_s:
            stage = self.stages[-1]
            stage.ended_s, stage.error = at_s, error

    def provider_lines(self) -> bytes:
        """Return the header lines that tell a provider of the stage that is under way."""
        state = "" if self.caller is None else self.caller.state
        return header_lines(self.trace_id, self.stages[-1].span_id, sampled=True, state=state)
