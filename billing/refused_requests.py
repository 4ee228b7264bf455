"""Requests that were refused: the last ones of each key, so that an operator can say why one was.

Nothing of it is on the way of a request: a refusal is noted in memory, and once in
FLUSH_S whatever was noted goes to Redis in one call. Records are bounded for each key, over all keys and in age, and
what is above `pending` between two calls, or can't be written, is dropped and counted: they explain, and bill nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from billing.errors import StoreError
from billing.work import Periodic

if TYPE_CHECKING:
    from billing.settings import RefusalSettings

logger = logging.getLogger(__name__)

FLUSH_S: Final = 1.0
# Of one record; a longer one is kept without its details.
MOST_BYTES: Final = 4096
# Stands for the key of requests that showed no valid one.
NO_KEY: Final = "none"
# Lists that are read at the same time.
AT_ONCE: Final = 32
HINT_EVERY_S: Final = 3600.0
KNOWN_HINTS: Final = 10_000


class RefusedRequest(msgspec.Struct, frozen=True):
    """One refusal. `at_ms` is Unix time; `details` what the refusal said beside its message, such as the window that is
    exhausted; `hint` what whoever runs the gateway can do. Fields that are not known are None."""

    id: str
    at_ms: int
    account_id: str | None
    key_id: str | None
    endpoint: str
    model: str | None
    status: int
    code: str
    message: str
    details: Mapping[str, Any]
    hint: str | None = None


class RefusalStore(Protocol):
    """Where records of refusals are kept (`holds.redis.state.RedisState`). Methods raise `StoreError`."""

    async def keep_refusals(
        self, records: Mapping[str, Sequence[bytes]], *, per_key: int, most_keys: int, age_ms: int, now_ms: int
    ) -> None: ...

    async def refused_keys(self) -> list[str]: ...

    async def refusals(self, key_id: str) -> list[bytes]: ...


class RefusedRequests:
    """Notes refusals and reads them again. `clock` is in Unix seconds."""

    def __init__(
        self,
        store: RefusalStore,
        settings: RefusalSettings,
        clock: Callable[[], float] = time.time,
        on_written: Callable[[list[RefusedRequest]], Awaitable[None]] | None = None,
    ) -> None:
        """`on_written` gets what was written, once a second."""
        self._store = store
        self._on_written = on_written
        self._settings = settings
        self._clock = clock
        self._waiting: dict[str, deque[RefusedRequest]] = {}
        self._count = 0
        self._hints = HintLog(clock)
        # Refusals that were not recorded.
        self.dropped = 0

    @property
    def on(self) -> bool:
        """Return whether refusals are kept."""
        return self._settings.refusals_per_key > 0

    @property
    def per_key(self) -> int:
        """Return how many of a key are kept at most."""
        return self._settings.refusals_per_key

    def note(self, refused: RefusedRequest) -> None:
        """Keep one, unless too many wait. Costs a microsecond and never waits."""
        if not self.on:
            return
        key_id = refused.key_id or NO_KEY
        waiting = self._waiting.get(key_id)
        if waiting is not None and len(waiting) == self._settings.refusals_per_key:
            waiting.append(refused)  # in the place of the oldest, which Redis would not keep either
        elif self._count >= self._settings.refusals_pending:
            self.dropped += 1
        else:
            if waiting is None:
                waiting = self._waiting[key_id] = deque(maxlen=self._settings.refusals_per_key)
            waiting.append(refused)
            self._count += 1

    def work(self) -> Periodic:
        """Return what writes noted refusals."""
        return Periodic(name="refused", every_s=FLUSH_S, round=self.flush, delayed=True)

    async def flush(self) -> None:
        """Write what was noted; it is dropped where Redis does not take it."""
        waiting, count = self._waiting, self._count
        self._waiting, self._count = {}, 0
        if not waiting:
            return
        settings = self._settings
        records = {key_id: [_encoded(each) for each in refused] for key_id, refused in waiting.items()}
        try:
            await self._store.keep_refusals(
                records,
                per_key=settings.refusals_per_key,
                most_keys=settings.refusals_keys,
                age_ms=int(settings.refusals_kept_s * 1000),
                now_ms=self._now_ms(),
            )
        except StoreError as error:
            self.dropped += count
            logger.debug("%d refusals were not recorded: %s", count, error)
        self._hints.log(each for refused in waiting.values() for each in refused)
        if self._on_written is not None:
            await self._on_written([each for refused in waiting.values() for each in refused])

    async def newest(
        self, limit: int, *, key_id: str | None = None, account_id: str | None = None
    ) -> list[RefusedRequest]:
        """Return the last ones of a key, of an account's keys, or of all keys, newest first. Raises `StoreError`."""
        found = [
            refused
            for refused in await self._all([key_id] if key_id is not None else await self._store.refused_keys())
            if account_id is None or refused.account_id == account_id
        ]
        found.sort(key=lambda refused: (refused.at_ms, refused.id), reverse=True)
        return found[:limit]

    async def find(self, request_id: str) -> RefusedRequest | None:
        """Return the one with this id, if it is still kept. Raises `StoreError`."""
        kept = await self._all(await self._store.refused_keys())
        return next((refused for refused in kept if refused.id == request_id), None)

    async def _all(self, key_ids: list[str]) -> list[RefusedRequest]:
        since_ms = self._now_ms() - int(self._settings.refusals_kept_s * 1000)
        found: list[RefusedRequest] = []
        for start in range(0, len(key_ids), AT_ONCE):
            lists = await asyncio.gather(*map(self._store.refusals, key_ids[start : start + AT_ONCE]))
            found += (each for raws in lists for each in _decoded(raws) if each.at_ms >= since_ms)
        return found

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _encoded(refused: RefusedRequest) -> bytes:
    raw = msgspec.json.encode(refused)
    return raw if len(raw) <= MOST_BYTES else msgspec.json.encode(msgspec.structs.replace(refused, details={}))


def _decoded(raws: Iterable[bytes]) -> Iterable[RefusedRequest]:
    """Return those that this version can read: another version's may stand among them for as long as they are kept."""
    for raw in raws:
        try:
            yield msgspec.json.decode(raw, type=RefusedRequest)
        except msgspec.DecodeError:
            continue


class HintLog:
    """Logs what whoever runs the gateway can do about refusals, each hint once an hour. `clock` is in Unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._logged_s: OrderedDict[str, float] = OrderedDict()

    def log(self, refused: Iterable[RefusedRequest]) -> None:
        """Log the hints of these refusals that were not logged lately."""
        for each in refused:
            now_s = self._clock()
            if each.hint is None or now_s < self._logged_s.get(each.hint, -HINT_EVERY_S) + HINT_EVERY_S:
                continue
            self._logged_s[each.hint] = now_s
            self._logged_s.move_to_end(each.hint)
            while len(self._logged_s) > KNOWN_HINTS:
                self._logged_s.popitem(last=False)
            logger.info("request %s was refused, %s: %s", each.id, each.code, each.hint)
