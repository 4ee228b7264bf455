"""How holds end: by the usage that the provider reported, or by `missing_usage` where it did not, or given back.

This file owns what a hold turns into. A settlement leaves for Redis when it is begun, or with what else the turn of the
event loop brings: what is done between `reported` and `end` costs the answer no time. A report is believed up to
`max_usage_factor` times a hold that is a bound; beyond it the hold is charged, or what passed where that is more:
there the provider has exceeded its maximum, and its report is true.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from billing.holds.model import Hold, Settled, Settlement, SettlementLost
from billing.ledger.debits import total_usage
from billing.logs import log_about
from billing.usage import MAX_COUNT, Usage
from gateway.dialects.facts import NO_WORK, Reported
from gateway.dialects.output import NO_OUTPUT, Output
from gateway.proxy.attempts import KEY_REFUSED
from gateway.proxy.context import NOTHING
from gateway.proxy.estimate import Charge, billed_usage
from gateway.proxy.provider_tools import own_searches, uses_with
from gateway.proxy.settlement.missing_usage import Guess, MissingUsage
from gateway.proxy.settlement.usage_anomalies import UsageAnomalies, believed, says_nothing

if TYPE_CHECKING:
    from billing.holds.api import Holds
    from billing.holds.model import Told
    from gateway.dialects.base import Tap
    from gateway.metrics.registry import Metrics, Outcome
    from gateway.proxy.context import Reason, RequestContext

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _nothing() -> Output:
    return NO_OUTPUT


class Settlements:
    """Ends holds, and counts how. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        holds: Holds,
        missing: MissingUsage,
        metrics: Metrics,
        max_usage_factor: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holds = holds
        self._missing = missing
        self.anomalies = UsageAnomalies(metrics)
        self._metrics = metrics
        self._max_usage_factor = max_usage_factor
        self._clock = clock

    def reported(
        self,
        context: RequestContext,
        hold: Hold,
        reported: Reported,
        output: Callable[[], Output] = _nothing,
        told: Told | None = None,
    ) -> Settlement:
        """Begin to settle the usage that the provider reported; `told` is called once it is over. `output` returns what
        passed, where that is needed. A free answer tells of usage that was paid before."""
        if context.match.endpoint.free:
            return self._begin(context, hold, Guess(NOTHING, context.charge(NOTHING), None), told)
        usage, parsed, route = reported.usage, context.parsed, context.route
        if parsed.work is not NO_WORK or route.searches_itself:
            usage = billed_usage(usage, parsed, route)
        charge = context.charge(usage, reported)
        self.anomalies.note(route, reported)
        if reported.others:
            usage = total_usage(usage, reported.others)
        if charge.charged_nano > hold.cost_nano or usage.input_tokens + usage.output_tokens > hold.tokens:
            return self._begin(context, hold, self._above(context, hold, Guess(usage, charge, None), output), told)
        return self._begin(context, hold, Guess(usage, charge, None), told)

    def _above(self, context: RequestContext, hold: Hold, guess: Guess, output: Callable[[], Output]) -> Guess:
        """Return what a usage above the hold is settled by: that usage, or the hold where it can't be true, and no less
        than what passed."""
        usage, charge = guess.usage, guess.charge
        if self._is_implausible(context, hold, usage, charge):
            logger.warning(
                "request %s: %s reports %d input and %d output tokens, which can't be: the hold is charged",
                hold.id,
                context.route.provider.name,
                usage.input_tokens,
                usage.output_tokens,
            )
            self._metrics.implausible_usage()
            return self._missing.hold_or_passed(context, hold, usage, output())
        return guess

    def _is_implausible(self, context: RequestContext, hold: Hold, usage: Usage, charge: Charge) -> bool:
        """Return whether a report is more than `max_usage_factor` times what can be: in money and tokens the hold where
        it is a bound; else, in tokens, all that the model's window takes in every round, where that is known."""
        factor = self._max_usage_factor
        if not context.strict:
            most = _most_of_rounds(context, hold)
            return most is not None and usage.total_tokens > factor * most
        most_tokens, most_nano = hold.tokens, hold.cost_nano
        parsed = context.parsed
        if parsed.prepares or _uses(context, hold):
            # What tools bring, and what a provider writes that passes over the wish to get ready, is no part of a hold.
            if (most := _most_of_rounds(context, hold)) is None:
                return False
            most_tokens = max(most_tokens, most)
            most_nano = max(most_nano, context.charge(Usage(input_tokens=min(most, MAX_COUNT))).charged_nano)
        return charge.charged_nano > factor * most_nano or usage.total_tokens > factor * most_tokens

    def _begin(self, context: RequestContext, hold: Hold, guess: Guess, told: Told | None = None) -> Settlement:
        now_s = self._clock()
        debit = context.settled(hold, guess.usage, guess.charge, reason=guess.reason, now_s=now_s)
        context.charged, context.settling_s = debit, now_s
        if context.trace is not None:
            context.trace.begin("settle", now_s)
        return self._holds.settle(hold, debit, told)

    async def complete(self, context: RequestContext, hold: Hold, settlement: Settlement) -> tuple[Settled, int]:
        """Wait for a settlement and count it; return what came of it, and what was charged in nano-USD. Raises
        `SettlementLost`."""
        try:
            settled = await settlement
        finally:
            if settlement.is_over:
                self.count(context, hold, settlement)
        return settled, settlement.debit.charged_nano

    def count(self, context: RequestContext, hold: Hold, settlement: Settlement) -> None:
        """Count a settlement that is over in the metrics, once."""
        debit, settled = settlement.debit, settlement.settled
        if settled is None:
            self._metrics.settled(debit.estimated, "lost")
            return
        outcome: Outcome = "direct_write" if settled.available_nano is None else "settled"
        took_s = self._clock() - context.settling_s
        self._metrics.charged(debit, outcome, took_s, context.principal.plan.id, context.trace)
        if debit.charged_nano > hold.cost_nano:
            self._metrics.hold_exceeded()

    def ended(
        self,
        context: RequestContext,
        hold: Hold,
        tap: Tap,
        reason: Reason,
        told: Told | None = None,
        *,
        failed: bool = False,
    ) -> Settlement | Coroutine[Any, Any, tuple[Settled, int]]:
        """Begin to settle a stream that is over: by its usage where that is final, of which `told` is told; else return
        what must be awaited. One in which nothing passed is given back where the provider `failed` or said so; another
        is settled by `missing_usage` because of `reason`. That raises `SettlementLost`."""
        reported = believed(context.route, tap.reported)
        if (failed or tap.error_seen) and says_nothing(tap):
            return self._free(context, hold)
        if reported is not None and tap.done and not tap.stale:
            return self.reported(context, hold, reported, tap.output, told)
        return self.estimated(context, hold, tap.output(), reason, tap.extrapolate, reported)

    async def stream(
        self, context: RequestContext, hold: Hold, tap: Tap, reason: Reason, *, failed: bool = False
    ) -> tuple[Settled, int]:
        """Settle a stream as `ended` says, to the end. Raises `SettlementLost`."""
        ending = self.ended(context, hold, tap, reason, failed=failed)
        return await (self.complete(context, hold, ending) if isinstance(ending, Settlement) else ending)

    async def overrun(self, context: RequestContext, hold: Hold, tap: Tap) -> tuple[Settled, int]:
        """Settle a stream that was cut because tools at the provider went beyond its hold: by the hold, or by what was
        reported so far where that is more. Raises `SettlementLost`."""
        guess = self._missing.of_hold(context, hold, believed(context.route, tap.reported), "tool_overrun")
        return await self._guessed(context, hold, guess, tap.output)

    async def whole(self, context: RequestContext, hold: Hold, output: Output, reason: Reason) -> tuple[Settled, int]:
        """Settle a JSON answer without usage: by `missing_usage`; it is given back where it is the provider's error.
        Raises `SettlementLost`."""
        if output.failed and output.empty:
            return await self._free(context, hold)
        return await self.estimated(context, hold, output, reason)

    async def _free(self, context: RequestContext, hold: Hold) -> tuple[Settled, int]:
        await self.void(hold)
        return Settled(context.balance_before_nano(hold)), 0

    async def estimated(
        self,
        context: RequestContext,
        hold: Hold,
        output: Output,
        reason: Reason,
        extrapolate: Callable[[int], int] | None = None,
        reported: Reported | None = None,
    ) -> tuple[Settled, int]:
        """Settle an answer without usage, or whose usage is not the final one, by `missing_usage`. Raises
        `SettlementLost`."""
        guessing = self._missing.guess(context, hold, output, reason, extrapolate, reported)
        return await self.uncancelled(hold, self._counted(context, hold, guessing, lambda: output))

    async def _counted(
        self, context: RequestContext, hold: Hold, guessing: Coroutine[Any, Any, Guess], output: Callable[[], Output]
    ) -> tuple[Settled, int]:
        return await self._guessed(context, hold, await guessing, output)

    async def _guessed(
        self, context: RequestContext, hold: Hold, guess: Guess, output: Callable[[], Output]
    ) -> tuple[Settled, int]:
        if guess.charge.charged_nano > hold.cost_nano or guess.usage.total_tokens > hold.tokens:
            guess = self._above(context, hold, guess, output)
        return await self.complete(context, hold, self._begin(context, hold, guess))

    async def settle_whole(self, context: RequestContext, hold: Hold, reason: Reason) -> None:
        """Settle a request as what was held for it. Raises `SettlementLost`."""
        guess = self._missing.whole_hold(context, hold, reason)
        await self.complete(context, hold, self._begin(context, hold, guess))

    async def refused(self, context: RequestContext, hold: Hold) -> None:
        """Give the hold back because the provider refused the request with `context.status`, and tell the operator."""
        status = context.status
        self._metrics.upstream_refusal(context.route.provider.name, status)
        if status in KEY_REFUSED:
            logger.error("%s answered %d: check its key", context.described, status)
        else:
            logger.warning("%s answered %d", context.described, status)
        await self.void(hold)

    async def void(self, hold: Hold) -> None:
        """Give the hold back."""
        await self._holds.void(hold)
        self._metrics.settled(False, "voided")

    async def uncancelled(self, hold: Hold, work: Coroutine[Any, Any, T]) -> T:
        """Return what this work comes to. It goes on to its end where the waiting request is cancelled meanwhile."""
        running = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.hand_over(hold, _waited(running))
            raise

    def hand_over(self, hold: Hold, work: Coroutine[Any, Any, None]) -> None:
        """Have work go on without the request that began it, which was cancelled. At its end the hold has ended."""
        self._holds.hand_over(hold, _logged(hold, work))


def _uses(context: RequestContext, hold: Hold) -> int:
    """Return how often tools may run at the provider, those of the model's own included."""
    work = context.parsed.work
    return uses_with(work, context.granted_calls(hold) or 0) + own_searches(context.parsed, context.route)


def _most_of_rounds(context: RequestContext, hold: Hold) -> int | None:
    """Return the tokens of a whole context window in every round of a request; None where the model's is not known."""
    window, parsed = context.route.context_window, context.parsed
    if window is None:
        return None
    window = max(window, parsed.context_window)
    return window * parsed.choices * (1 + _uses(context, hold) + parsed.work.calls)


async def _logged(hold: Hold, work: Coroutine[Any, Any, None]) -> None:
    """Do work that nobody waits for, and log its failure. Its connection may serve another request meanwhile."""
    log_about(hold.id, hold.target.account_id)
    try:
        await work
    except SettlementLost as error:
        logger.error("request %s: %s", hold.id, error)
    except Exception:
        logger.exception("request %s failed after its client had left", hold.id)


async def _waited(work: asyncio.Future[Any]) -> None:
    """Wait for what a cancelled request left running, and log its failure; its answer has no reader."""
    await asyncio.wait([work])
    if not work.cancelled() and work.exception() is not None:
        logger.error("a request without a client failed", exc_info=work.exception())
