"""How holds end: priced by what the provider has counted, or by `missing_usage` where it has not, or given back.

This file owns what a hold turns into. A settlement leaves for Redis when it is begun, or with what else the turn of the
event loop brings: what is done between `reported` and `end` costs the answer no time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from billing.holds.hold import Hold, Settled, SettlementLost
from billing.holds.service import Holds
from billing.ledger.debits import Debit
from billing.usage import Usage
from gateway.estimate import Charge
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.missing import MissingUsage
from gateway.providers.dialect import Reported

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Settling:
    """A settlement on its way. `end` waits for it, then `count` it, once."""

    __slots__ = ("_clock", "_debit", "_metrics", "_outcome", "_over", "_seconds")

    def __init__(
        self,
        outcome: "asyncio.Future[Settled]",
        debit: Debit,
        metrics: Metrics,
        clock: Callable[[], float],
        begun_s: float,
        over: bool,
    ) -> None:
        """`over`: it came to more than what was held."""
        self._outcome = outcome
        self._debit = debit
        self._metrics = metrics
        self._clock = clock
        self._seconds = -begun_s
        self._over = over

    @property
    def charged_nano(self) -> int:
        """What the account is charged, in nano-USD."""
        return self._debit.charged_nano

    async def end(self) -> Settled:
        """What came of it, once the debit is outside this process. Raises `SettlementLost`."""
        try:
            settled = await self._outcome
        except SettlementLost:
            self._metrics.settled(self._debit.estimated, "lost")
            raise
        self._seconds += self._clock()
        return settled

    def count(self, settled: Settled) -> None:
        """Count what `end` has answered."""
        metrics, debit = self._metrics, self._debit
        metrics.settle_latency(self._seconds)
        metrics.settled(debit.estimated, "settled" if settled.available_nano is not None else "ledger_way")
        if self._over:
            metrics.hold_exceeded()
        metrics.usage(
            debit.provider,
            debit.input_tokens,
            debit.cached_input_tokens,
            debit.output_tokens,
            debit.reasoning_tokens,
            debit.cost_nano,
            debit.charged_nano,
        )


class Settler:
    """Ends holds, and counts how. `clock` is monotonic, in seconds."""

    def __init__(
        self, holds: Holds, missing: MissingUsage, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._holds = holds
        self._missing = missing
        self._metrics = metrics
        self._clock = clock

    def reported(self, exchange: Exchange, hold: Hold, reported: Reported) -> Settling:
        """Begin to settle what the provider has counted."""
        charge = exchange.charge(reported.usage, reported.service_tier)
        return self._begin(exchange, hold, reported.usage, charge, estimated=False)

    def _begin(self, exchange: Exchange, hold: Hold, usage: Usage, charge: Charge, *, estimated: bool) -> Settling:
        now_s = self._clock()
        debit = exchange.settled(hold, usage, charge, estimated=estimated, now_s=now_s)
        outcome = self._holds.settle(hold, debit)
        return Settling(outcome, debit, self._metrics, self._clock, now_s, charge.charged_nano > hold.cost_nano)

    async def to_end(self, settling: Settling) -> tuple[Settled, int]:
        """A settlement, waited for and counted, and what was charged in nano-USD. Raises `SettlementLost`."""
        settled = await settling.end()
        settling.count(settled)
        return settled, settling.charged_nano

    async def unreported(
        self,
        exchange: Exchange,
        hold: Hold,
        wrote: bool,
        text: str,
        extrapolate: Callable[[int], int] | None = None,
    ) -> tuple[Settled, int]:
        """Settle an answer without usage by `missing_usage`. One in which nothing was written is given back: it failed,
        whatever its status says. Raises `SettlementLost`."""
        if wrote:
            return await self.whoever_waits(hold, self._guessed(exchange, hold, text, extrapolate))
        await self.void(hold)
        return Settled(hold.available_nano + hold.cost_nano - exchange.principal.credit_limit_nano), 0

    async def _guessed(
        self, exchange: Exchange, hold: Hold, text: str, extrapolate: Callable[[int], int] | None
    ) -> tuple[Settled, int]:
        guess = await self._missing.guess(exchange, hold, text, extrapolate)
        return await self.to_end(self._begin(exchange, hold, guess.usage, guess.charge, estimated=True))

    async def void(self, hold: Hold) -> None:
        """Give the hold back."""
        await self._holds.void(hold)
        self._metrics.settled(False, "voided")

    async def whoever_waits(self, hold: Hold, work: Coroutine[Any, Any, T]) -> T:
        """What this work comes to; it goes on to its end when whoever waits for it is cancelled meanwhile."""
        running = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._holds.hand_over(hold, _waited(running))
            raise


async def _waited(work: asyncio.Future[Any]) -> None:
    """What a cancelled request left running; its answer has no reader."""
    await asyncio.wait([work])
    if not work.cancelled() and work.exception() is not None:
        logger.error("a request without a client failed", exc_info=work.exception())
