"""Streams that go beyond what was granted: more calls of tools at the provider, or more usage, than their hold allows.

A request that leaves its tools open is held for as many calls as were granted, each with what it usually brings. A
provider that does not keep to that number, or whose calls bring far more, is stopped in time: see `tool_overrun`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.proxy.provider_tools import uses_with
from gateway.upstream.base import UpstreamError

if TYPE_CHECKING:
    from billing.holds.model import Hold
    from gateway.dialects.base import Tap
    from gateway.dialects.facts import Reported
    from gateway.proxy.context import RequestContext

PERCENT = 100


class ToolOverrun(UpstreamError):
    """A stream has gone beyond its hold by more than what is let pass."""


class OverrunGuard:
    """Watches one stream. `over_percent` of its hold and of its calls it may have beside them."""

    __slots__ = ("_context", "_most_calls", "_most_nano", "_most_tokens", "_seen", "_tap")

    def __init__(self, context: RequestContext, hold: Hold, tap: Tap, granted: int, over_percent: int) -> None:
        self._context = context
        self._tap = tap
        self._seen: Reported | None = None
        self._most_calls = uses_with(context.parsed.work, granted) * (PERCENT + over_percent) // PERCENT
        self._most_nano = hold.cost_nano * (PERCENT + over_percent) // PERCENT
        self._most_tokens = hold.tokens * (PERCENT + over_percent) // PERCENT

    def check(self) -> None:
        """Raise `ToolOverrun` where the stream has gone too far and goes on: one at its end is charged as it is."""
        calls, reported = self._tap.tool_calls, self._tap.reported
        too_far = calls > self._most_calls
        if reported is not None and reported is not self._seen:
            self._seen = reported
            too_far = too_far or reported.total.total_tokens > self._most_tokens
            too_far = too_far or self._context.charge(reported.usage, reported).charged_nano > self._most_nano
        if too_far and not self._tap.done:
            raise ToolOverrun(f"the provider's tools go beyond the hold: {calls} calls so far")
