"""Waiting for a state, with a bound, and a failure that says which one did not come."""

import asyncio
from collections.abc import Awaitable, Callable

# No condition is waited for longer.
BOUND_S = 60.0
POLL_S = 0.02


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str | Callable[[], str], bound_s: float = BOUND_S
) -> None:
    """Wait for a state. Raises `AssertionError` that says which one did not come, in words that a callable has then."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + bound_s
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        if loop.time() >= give_up:
            raise AssertionError(f"waited {bound_s:.0f} s until {what if isinstance(what, str) else what()}")
        await asyncio.sleep(POLL_S)
