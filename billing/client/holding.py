"""A hold that a block of code has: settled in it, or given back at its end.

What may have been settled is never given back: where nobody can tell what came of a settlement, it is settled
again by whoever calls `settle` again, which is harmless, or the hold is left to expire.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Unpack

from billing.client.errors import ClientError
from billing.client.retries import is_unsure

if TYPE_CHECKING:
    from billing.client.service import Counts, ServiceCalls
    from billing.schemas.service import HoldShape

logger = logging.getLogger(__name__)


class HeldOpen:
    """An open hold; `shape` is as the gateway said last."""

    def __init__(self, calls: ServiceCalls, shape: HoldShape) -> None:
        self._calls = calls
        self.shape = shape
        self._maybe_settled = False
        self._settling: asyncio.Task[HoldShape] | None = None

    @property
    def id(self) -> str:
        """Return the hold's id, which is that of its debit."""
        return self.shape.id

    async def settle(self, *, provider: str | None = None, **counts: Unpack[Counts]) -> HoldShape:
        """Charge what was used, and give the rest back. The same again is charged once. Raises as every call; after
        `Refused` the hold is open, and otherwise it may be settled. Where its caller is cancelled it goes on, and the
        end of the block waits for it."""
        self._settling = asyncio.ensure_future(self._settle(provider, counts))
        return await asyncio.shield(self._settling)

    async def _settle(self, provider: str | None, counts: Counts) -> HoldShape:
        unsure_before, self._maybe_settled = self._maybe_settled, True
        try:
            self.shape = await self._calls.settle_hold(self.id, provider=provider, **counts)
        except ClientError as error:
            self._maybe_settled = unsure_before or is_unsure(error)
            raise
        return self.shape

    async def void(self) -> HoldShape:
        """Give the hold back. Raises as every call."""
        self.shape = await self._calls.void_hold(self.id)
        return self.shape

    async def close(self) -> None:
        """Give back what is not settled. It raises nothing: a hold that is not given back expires by itself."""
        if self._settling is not None:
            await asyncio.wait([self._settling])
            _ = self._settling.cancelled() or self._settling.exception()  # retrieved here: its caller may be cancelled
        if self.shape.state != "held":
            return
        if self._maybe_settled:
            logger.warning("nobody can tell whether the hold %s is settled: else it expires", self.id)
            return
        giving = asyncio.ensure_future(self._give_back())
        try:
            await asyncio.shield(giving)
        except asyncio.CancelledError:
            await asyncio.wait([giving])
            raise

    async def _give_back(self) -> None:
        try:
            await self.void()
        except ClientError as error:
            logger.warning("the hold %s is not given back, and expires by itself: %s", self.id, error)
