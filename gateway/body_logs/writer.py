"""What waits is redacted, sealed and written, an account's requests in a file; what is too old is removed.

A file that can't be written is kept and tried again under its name, ever more rarely; meanwhile requests wait, as many
as may, and whoever runs the gateway is told. All that takes time in proportion to bodies runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from billing.errors import MetergateError, StoreError
from billing.times import rfc3339
from billing.work import Lease, Periodic
from gateway.body_logs.places import file_name
from gateway.body_logs.redaction import Kept
from gateway.object_stores import StoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from billing.database.connection import Database
    from gateway.body_logs.places import Place
    from gateway.body_logs.recording import BodyLog, Entry
    from gateway.body_logs.redaction import Redactor
    from gateway.body_logs.sealed_file import Keys

logger = logging.getLogger(__name__)

NAME: Final = "body_logs"
REMOVAL: Final = "body_logs_removal"
REMOVE_EVERY_S: Final = 3600.0
# Of requests in memory, in one file.
BATCH_BYTES: Final = 8 << 20
# At the end, for all that waits: below `billing.work.CANCEL_AGAIN_S`, after which nothing would say what is lost.
CLOSE_S: Final = 0.75
OK: Final = 200
PROVIDER: Final = "x-metergate-provider"
EVENTS: Final = "text/event-stream"
DAY: Final = "%Y-%m-%d"
# What some readers take for the end of a line.
_LINE_ENDS: Final = {"\u2028": "\\u2028", "\u2029": "\\u2029", "\u0085": "\\u0085"}


@dataclass(frozen=True, slots=True)
class Made:
    """A file that is to be written, and the room that its requests have."""

    name: str
    data: bytes
    account_id: str
    requests: int
    taken_bytes: int


class BodyWriter:
    """Writes what a process has recorded. `decoded` opens an answer that is compressed, up to so many bytes."""

    def __init__(
        self,
        log: BodyLog,
        place: Place,
        redactor: Redactor,
        keys: Keys,
        gateway_id: str,
        decoded: Callable[[bytes, str | None, int], bytes],
    ) -> None:
        self.log = log
        self._place, self._redactor, self._keys, self._gateway_id = place, redactor, keys, gateway_id
        self._decoded = decoded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="body-logs")
        self._making: asyncio.Future[Made] | None = None
        self._batch: list[Entry] = []
        """What `_making` makes a file of."""
        self._made: Made | None = None
        self._failed = False

    def work(self) -> Periodic:
        """Return the loop that writes."""
        every_s = self.log.config.write_every_s
        return Periodic(name=NAME, every_s=every_s, round=self.round, close=self.close, expected=(StoreFailed,))

    def removal(self, database: Database, owner: str) -> Periodic:
        """Return the loop that removes what is too old: in each gateway from a folder, which is its own, and in one of
        all from a bucket. `owner` names this process."""
        lease = Lease(database, REMOVAL, owner) if self._place.is_shared else None
        return Periodic(
            name=REMOVAL, every_s=REMOVE_EVERY_S, round=self.remove_old, lease=lease, expected=(StoreError, StoreFailed)
        )

    @property
    def trouble(self) -> str | None:
        """Return what an operator should look at. Anybody may read this: the log says which place takes none, and
        why."""
        return f"bodies of {self.log.requests} requests wait to be written: see the log" if self._failed else None

    async def round(self) -> None:
        """Write what waits. Raises `StoreFailed`; what was not written waits on."""
        for _ in range(len(self.log.waiting) + (self._made is not None or self._making is not None)):
            made = self._made = self._made or await self._next()
            if made is None:
                continue
            try:
                await self._place.put(made.name, made.data)
            except StoreFailed as error:
                if not self._failed:
                    logger.warning("bodies can't be written: %s", error)
                self._failed = True
                raise
            self._failed, self._made = False, None
            self.log.free(made.account_id, made.requests, made.taken_bytes)

    async def _next(self) -> Made | None:
        """Return the next file; one whose making was interrupted goes on. None where our own code fails on it: its
        requests are dropped, so that the others are written."""
        if self._making is None:
            self._batch = self.log.batch(BATCH_BYTES)
            self._making = asyncio.get_running_loop().run_in_executor(self._thread, self._make, self._batch)
        try:
            made = await asyncio.shield(self._making)
        except Exception as error:  # its text may have some of a body
            account_id, requests = self._batch[0].account_id, len(self._batch)
            self.log.drop(account_id, requests, sum(entry.taken_bytes for entry in self._batch))
            logger.error("bodies of %d requests of %s are lost: %s", requests, account_id, type(error).__name__)
            made = None
        self._making, self._batch = None, []
        return made

    def _make(self, batch: list[Entry]) -> Made:
        """Return the file of an account's requests."""
        account_id, ids = batch[0].account_id, sorted(entry.request_id for entry in batch)
        lines = b"".join(self._line(entry) for entry in batch)
        day = datetime.fromtimestamp(self.log.wall_clock(), UTC).strftime(DAY)
        return Made(
            file_name(day, account_id, (ids[0], ids[-1]), self._gateway_id),
            self._keys.seal(account_id, lines),
            account_id,
            len(batch),
            sum(entry.taken_bytes for entry in batch),
        )

    def _line(self, entry: Entry) -> bytes:
        """Return the line of a request: JSON without an end of a line in it, by whatever a reader takes for one."""
        head = _head(entry.lines)
        request, response = self._request(entry), self._response(entry, head)
        fields: dict[str, Any] = {
            "request_id": entry.request_id,
            "time": rfc3339(datetime.fromtimestamp(entry.at_ms / 1000, UTC)),
            "account_id": entry.account_id,
            "key_id": entry.key_id,
            "endpoint": entry.endpoint,
            "model": self._redactor.text(entry.model),
            "provider": head.get(PROVIDER),
            "stream": entry.stream,
            "status": entry.status or None,
            "ended": entry.ended,
            "latency_ms": entry.latency_ms,
            "request_bytes": entry.request_bytes,
            "response_bytes": entry.response_bytes,
            "request": request.body,
            "response": response.body,
            "left_out": {
                name: kept.left_out
                for name, kept in (("request", request), ("response", response))
                if kept.left_out is not None
            },
            "cut": request.cut + response.cut,
            "redacted": {
                name: request.redacted.get(name, 0) + response.redacted.get(name, 0)
                for name in sorted({*request.redacted, *response.redacted})
            },
        }
        text = msgspec.json.encode(fields).decode()
        for character, escaped in _LINE_ENDS.items():
            text = text.replace(character, escaped)
        return text.encode() + b"\n"

    def _request(self, entry: Entry) -> Kept:
        body = entry.request
        return Kept(left_out="too_large") if body is None else self._safely(entry, lambda: self._redactor.whole(body))

    def _response(self, entry: Entry, head: Mapping[str, str]) -> Kept:
        return self._safely(entry, lambda: self._read(entry, head)) if entry.status else Kept()

    def _read(self, entry: Entry, head: Mapping[str, str]) -> Kept:
        body, encoding = b"".join(entry.pieces), head.get("content-encoding")
        limit_bytes, are_events = self.log.config.max_body_bytes, head.get("content-type", "").startswith(EVENTS)
        if entry.is_cut and (encoding or not are_events):
            return Kept(left_out="too_large" if entry.response_bytes > limit_bytes else "cut")
        if encoding:
            try:
                body = self._decoded(body, encoding, limit_bytes)
            except (MetergateError, zlib.error):
                return Kept(left_out="encoded")
        if are_events or (entry.stream and entry.status == OK):
            kept = self._redactor.stream(body, ended=not entry.is_cut)
            kept.cut += entry.is_cut
            return kept
        return self._redactor.whole(body)

    def _safely(self, entry: Entry, make: Callable[[], Kept]) -> Kept:
        """Return what is kept of a body; nothing of one on which our own code fails, so that the others are written."""
        try:
            return make()
        except Exception as error:  # its text may have some of the body
            logger.error("bodies of request %s are left out: %s", entry.request_id, type(error).__name__)
            return Kept(left_out="failed")

    async def remove_old(self) -> None:
        """Remove the files of days that are over for longer than they are kept. Raises `StoreFailed`."""
        now = datetime.fromtimestamp(self.log.wall_clock(), UTC)
        first = (now - timedelta(days=self.log.config.keep_days)).strftime(DAY)
        failed: StoreFailed | None = None
        for day in await self._place.days():
            if day >= first:
                continue
            try:
                if await self._place.remove(day):
                    logger.info("bodies of %s are removed", day)
            except StoreFailed as error:  # the other days are not kept for it
                failed = failed or error
        if failed is not None:
            raise failed

    async def close(self) -> None:
        """Write what waits, once."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.round()
        except (StoreFailed, TimeoutError) as error:
            lost, self.log.dropped = self.log.requests, self.log.dropped + self.log.requests
            logger.warning("bodies of %d requests are lost: %s", lost, error or "the place does not answer")
        finally:
            self._thread.shutdown(wait=False)


def _head(lines: bytes) -> dict[str, str]:
    """Return the headers of an answer by their names in lower case."""
    pairs = (line.split(": ", 1) for line in lines.decode("latin-1").split("\r\n") if ": " in line)
    return {name.lower(): value for name, value in pairs}
