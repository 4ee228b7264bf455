"""The health of all targets in this process, how processes share it, over Redis and beside the requests, and what an
operator sees of it.

A target that opens is kept in a hash in Redis and told on a channel, one that closes is taken out and told. Nothing of
this is on the way of a request: a change is noted in memory, and a loop tells it, once for all changes of a target
meanwhile. Where Redis is away each process goes by what it sees itself. A target is named by its provider and its
number there, so that gateways of one installation should have the same configuration; every process makes a probe of
its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from billing.holds.redis.connection import RedisError
from billing.schemas.system import ProviderShape, TargetShape
from billing.times import rfc3339
from billing.traffic.counts import Change
from billing.work import asked_to_end
from gateway.upstream.health import MAX_COOLDOWN_S, TargetHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from billing.holds.redis.state import RedisState
    from gateway.config.providers import ProviderConfig, TargetConfig
    from gateway.config.settings import Settings

logger = logging.getLogger(__name__)

TELL_EVERY_S: Final = 0.1
LISTEN_AGAIN_S: Final = 1.0
# Changes of targets that wait to be written down; of more the oldest are lost.
MOST_CHANGES: Final = 1_000


class Told(msgspec.Struct, frozen=True):
    """One change of a target: by which process, and when its cool-down ends in Unix seconds; None: it is closed."""

    target: str
    by: str
    open_until_s: float | None = None


class HealthBoard:
    """The health of the targets of `providers`; `clock` returns monotonic seconds."""

    def __init__(self, providers: Iterable[ProviderConfig], clock: Callable[[], float] = time.monotonic) -> None:
        self._targets = {
            provider.name: tuple(TargetHealth(clock, provider.cooldown, each.weight) for each in provider.all_targets)
            for provider in providers
        }
        self._named = {
            target_name(provider, number): target
            for provider, targets in self._targets.items()
            for number, target in enumerate(targets)
        }
        self.changed: dict[str, TargetHealth] = {}
        """Targets that this process has opened or closed and not told of yet, by name."""
        self.woken = asyncio.Event()
        """Set where there is one."""
        self.changes: deque[Change] = deque(maxlen=MOST_CHANGES)
        """What this process has opened and closed since it last was written down, for whoever looks back."""
        for name, target in self._named.items():
            target.on_change = self._noting(name, target)

    def of(self, provider: str) -> tuple[TargetHealth, ...]:
        """Return the health of a provider's targets, in the order of its entry."""
        return self._targets[provider]

    def opened(self) -> dict[str, float]:
        """Return the targets that are not closed, by name, with the seconds until each is free."""
        return {name: target.wait_s for name, target in self._named.items() if target.state != "closed"}

    def open_of(self, provider: str) -> int:
        """Return the number of a provider's targets that are not closed."""
        return sum(target.state != "closed" for target in self._targets[provider])

    def apply(self, told: Told, now_s: float) -> None:
        """Take over what another process tells; `now_s` is Unix time. Targets that are not known here are ignored."""
        target = self._named.get(told.target)
        if target is None:
            return
        if told.open_until_s is None:
            target.adopt_closed()
        else:
            target.adopt_open(min(told.open_until_s - now_s, MAX_COOLDOWN_S))

    def _noting(self, name: str, target: TargetHealth) -> Callable[[], None]:
        provider, _, number = name.rpartition("/")

        def note() -> None:
            self.changed[name] = target
            self.woken.set()
            state = "closed" if target.state == "closed" else "open"
            self.changes.append(Change(provider, int(number), time.time(), state, ""))

        return note


def target_name(provider: str, number: int) -> str:
    """Return what a provider's target is called among processes."""
    return f"{provider}/{number}"


def open_until(kept: Mapping[bytes, bytes]) -> dict[str, float]:
    """Return when the cool-downs end of the targets that Redis keeps as open, in Unix seconds, by name; what can't be
    read is left out."""
    found = {}
    for name, value in kept.items():
        try:
            found[name.decode()] = float(value)
        except ValueError:
            continue
    return found


class SharedHealth:
    """Tells other processes of this one's targets and takes over theirs. `by` names this process; `clock` returns Unix
    seconds."""

    def __init__(self, board: HealthBoard, redis: RedisState, by: str, clock: Callable[[], float] = time.time) -> None:
        self._board = board
        self._redis = redis
        self._by = by
        self._behind = False
        """Whether others may have told of changes since this process listened last."""
        self._clock = clock

    async def tell(self) -> None:
        """Tell of changes, for ever, and take over what Redis keeps each time that listening has begun. What Redis does
        not take is dropped."""
        board = self._board
        while not asked_to_end():
            await board.woken.wait()
            board.woken.clear()
            if self._behind:
                await self._take_kept()
            changed, board.changed = board.changed, {}
            for name, target in changed.items():
                try:
                    await self._tell(name, target)
                except RedisError as error:
                    logger.info("the health of %s is not shared: %s", name, error)
            await asyncio.sleep(TELL_EVERY_S)

    async def _tell(self, name: str, target: TargetHealth) -> None:
        until_s = None if target.state == "closed" else self._clock() + target.wait_s
        told = msgspec.json.encode(Told(name, self._by, until_s))
        kept = None if until_s is None else f"{until_s:.3f}".encode()
        await self._redis.share_target(name, kept, told, keep_s=int(2 * MAX_COOLDOWN_S))

    async def listen(self) -> None:
        """Take over what others tell, for ever."""
        while not asked_to_end():
            try:
                async for message in self._redis.listen_targets(self._begun):
                    self._take(message)
            except RedisError as error:
                logger.info("%s; the health of targets is this process's own until it stands again", error)
            await asyncio.sleep(LISTEN_AGAIN_S)

    def _begun(self) -> None:
        self._behind = True
        self._board.woken.set()

    async def _take_kept(self) -> None:
        self._behind = False
        try:
            kept = await self._redis.shared_targets()
        except RedisError as error:
            logger.info("the health of targets that others have seen is not known: %s", error)
            return
        now_s = self._clock()
        for name, until_s in open_until(kept).items():
            self._board.apply(Told(name, "", until_s), now_s)

    def _take(self, message: bytes) -> None:
        try:
            told = msgspec.json.decode(message, type=Told)
        except msgspec.DecodeError:
            return  # of another release
        if told.by != self._by:
            self._board.apply(told, self._clock())


async def provider_list(settings: Settings, redis: RedisState) -> list[ProviderShape]:
    """Return the providers by name, with the state of their targets now. Raises `RedisError`."""
    opened, now_s = open_until(await redis.shared_targets()), time.time()
    return [
        ProviderShape(
            name=provider.name,
            kind=provider.kind,
            off_reason=provider.off_reason,
            dialects=sorted(provider.served),
            models=sorted(model.name for model in settings.models.values() if model.provider == provider.name),
            targets=_targets(provider, opened, now_s),
        )
        for provider in settings.providers.values()
    ]


def _targets(provider: ProviderConfig, opened: Mapping[str, float], now_s: float) -> list[TargetShape]:
    return [
        _target(number, target, opened.get(target_name(provider.name, number)), now_s)
        for number, target in enumerate(provider.all_targets)
    ]


def _target(number: int, target: TargetConfig, until_s: float | None, now_s: float) -> TargetShape:
    scheme, host, port = target.origin
    is_open = until_s is not None and until_s > now_s
    return TargetShape(
        number=number,
        origin=f"{scheme}://{host}:{port}" if host else "",
        weight=target.weight,
        state="closed" if until_s is None else "open" if is_open else "half_open",
        open_until=rfc3339(datetime.fromtimestamp(until_s, UTC)) if until_s is not None and is_open else None,
    )
