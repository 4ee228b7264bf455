"""Snapshots: an exporter is asked for pages of them (GET /v1/snapshots/window), answers are checked, and a source is
read on.

Requests are bounded in time, size and attempts; certificates are verified, redirects not followed, nothing is
decompressed, and no message says what was sent or answered.

Counters are cumulative, as billing-service's interface has them. Pages follow one another by the cursor that a page
names (`next_cursor` or `cursor`); where `has_more` comes without one, the next page begins with the newest snapshot of
this one. What makes no progress ends a run: the same cursor again, pages without a newer snapshot, empty pages.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar, Final, NamedTuple

import aiohttp
import msgspec
from msgspec import Meta, Struct

from billing.errors import Kind, MetergateError
from billing.times import rfc3339

# The meter of traffic, also the feature that quotas count it under and the model of its debits.
METER: Final = "bytes"
# The advisory lock of collection: "metercol" as 64 bits.
LOCK: Final = 0x6D65746572636F6C


# Of one counter: JSON numbers are exact up to here.
MOST_COUNTED: Final = 2**53 - 1
# Pages in a row that may be empty and say that there is more.
MOST_EMPTY: Final = 10
MOST_BACK: Final = timedelta(days=35)
# Snapshots of other times are set aside: older ones have lost their neighbours, and later ones can't be true.
MOST_AHEAD: Final = timedelta(minutes=5)
# How long points are kept at least: late ones grow from those before them.
LEAST_DAYS: Final = MOST_BACK.days + 2

_Count = Annotated[int, Meta(ge=0, le=MOST_COUNTED)]
_Name = Annotated[str, Meta(max_length=256)]
_Moment = Annotated[datetime, Meta(tz=True)]


class ExporterFailed(MetergateError):
    """A source could not be collected; the message holds neither token nor answer. `restart`: the window that was being
    read can't be gone on with."""

    kind: ClassVar[Kind] = "unavailable"

    def __init__(self, message: str, *, restart: bool = False) -> None:
        super().__init__(message)
        self.restart = restart


@dataclass(frozen=True, slots=True)
class Source:
    """An exporter to collect from. `expected_...`, where set, are compared with what it reports of itself."""

    source_id: str
    base_url: str
    token: str | None = field(repr=False)
    region: str
    expected_node_id: str | None = None
    expected_env: str | None = None
    timeout_s: float = 15.0


class _Sample(Struct, frozen=True, gc=False):
    uuid: Annotated[str, Meta(min_length=1, max_length=128)]
    email: Annotated[str, Meta(max_length=320)]
    inbound_tag: _Name
    uplink_bytes_total: _Count
    downlink_bytes_total: _Count


class _Snapshot(Struct, frozen=True):
    collected_at: _Moment
    node_id: Annotated[str, Meta(min_length=1, max_length=256)]
    env: _Name
    samples: list[_Sample]


class _Answer(Struct, frozen=True):
    node_id: Annotated[str, Meta(min_length=1, max_length=256)]
    env: _Name
    snapshots: list[_Snapshot]
    has_more: bool = False
    next_cursor: Annotated[str, Meta(max_length=2048)] | None = None
    cursor: Annotated[str, Meta(max_length=2048)] | None = None


_decoder: Final = msgspec.json.Decoder(_Answer)


class At(NamedTuple):
    """A snapshot of a page: its node, its time, and how many samples of the page it has."""

    node: str
    at: datetime
    samples: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page of snapshots: `nodes` with environment and earliest snapshot; `snapshots` that have samples, each once,
    and their samples by column, in the same order: no series has two of one time. `sent` counts what came, `set_aside`
    those of impossible times, `conflicts` those of a series and time that had two values. `newest` is its newest
    snapshot, None for a page without one."""

    nodes: dict[str, tuple[str, datetime]]
    snapshots: list[At]
    uuids: list[str]
    emails: list[str]
    inbound_tags: list[str]
    ups: list[int]
    downs: list[int]
    sent: int
    set_aside: int
    conflicts: int
    newest: datetime | None
    cursor: str | None
    has_more: bool


def read_page(body: bytes, source: Source, now: datetime) -> Page:
    """Return what an answer says. Raises `ExporterFailed` for anything but a page of this source."""
    try:
        answer = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ExporterFailed(f"its answer is not a page of snapshots: {error}"[:300], restart=True) from None
    if b"\\u0000" in body:
        raise ExporterFailed("its answer has a NUL in a text", restart=True)
    for node, env in {(answer.node_id, answer.env), *((each.node_id, each.env) for each in answer.snapshots)}:
        if source.expected_node_id not in (None, node):
            raise ExporterFailed(f"expected node {source.expected_node_id!r}, it says {node!r}", restart=True)
        if source.expected_env not in (None, env):
            raise ExporterFailed(f"expected env {source.expected_env!r}, it says {env!r}", restart=True)
    return _page(answer, now)


def _page(answer: _Answer, now: datetime) -> Page:
    groups: dict[tuple[str, datetime], list[_Sample]] = {}
    nodes: dict[str, tuple[str, datetime]] = {}
    sent = set_aside = conflicts = 0
    for snapshot in answer.snapshots:
        sent += len(snapshot.samples)
        if not now - MOST_BACK <= snapshot.collected_at <= now + MOST_AHEAD:
            set_aside += len(snapshot.samples)
            continue
        node = snapshot.node_id
        at = snapshot.collected_at.astimezone(UTC)  # only now: the calendar's first and last days have no time of UTC
        nodes[node] = snapshot.env, min(at, nodes[node][1]) if node in nodes else at
        groups[node, at] = groups[node, at] + snapshot.samples if (node, at) in groups else snapshot.samples
    snapshots: list[At] = []
    samples: list[_Sample] = []
    for (node, at), group in groups.items():
        if not group:
            continue
        once, differing = _once(group)
        conflicts += differing
        snapshots.append(At(node, at, len(once)))
        samples += once
    return Page(
        nodes=nodes,
        snapshots=snapshots,
        uuids=[each.uuid for each in samples],
        emails=[each.email for each in samples],
        inbound_tags=[each.inbound_tag for each in samples],
        ups=[each.uplink_bytes_total for each in samples],
        downs=[each.downlink_bytes_total for each in samples],
        sent=sent,
        set_aside=set_aside,
        conflicts=conflicts,
        newest=max((at for _, at in groups), default=None),
        cursor=answer.next_cursor or answer.cursor or None,
        has_more=answer.has_more,
    )


def _once(samples: list[_Sample]) -> tuple[list[_Sample], int]:
    """Return the samples of one snapshot, each series once, of several values the largest; and how many differed."""
    if len({(each.uuid, each.inbound_tag) for each in samples}) == len(samples):
        return samples, 0
    found: dict[tuple[str, str], _Sample] = {}
    conflicts = 0
    for each in samples:
        key = each.uuid, each.inbound_tag
        up, down = each.uplink_bytes_total, each.downlink_bytes_total
        known = found.setdefault(key, each)
        known_up, known_down = known.uplink_bytes_total, known.downlink_bytes_total
        if (up, down) != (known_up, known_down):
            conflicts += 1
            found[key] = _Sample(each.uuid, known.email, each.inbound_tag, max(up, known_up), max(down, known_down))
    return list(found.values()), conflicts


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a source was read: `watermark` is the newest snapshot of windows that were read to their end. Of the one
    that is being read `since` and `until` are its bounds, None between two, `cursor` is what comes next of it and
    `newest` its newest snapshot so far. `version` rises with each move."""

    version: int = 0
    watermark: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None
    cursor: str | None = None
    newest: datetime | None = None

    def begun(self, now: datetime, overlap: timedelta, since: datetime | None = None) -> Checkpoint:
        """Return it with the window that is read next: the one that was begun, else one from before the watermark on; a
        new one from `since` on where that is earlier, so that nothing between is left out. A source that was never
        collected is asked for its last snapshots alone."""
        if since is None and self.since is not None and self.until is not None:
            return self
        begins = self.since or min(self.watermark or now, now) - overlap
        begins = begins if since is None else min(begins, since)
        return replace(self, since=max(begins, now - MOST_BACK), until=now, cursor=None, newest=None)

    def after(self, page: Page) -> Checkpoint:
        """Return it once a page of its window is written. Raises `ExporterFailed` where the page makes no progress."""
        newest = max((at for at in (self.newest, page.newest) if at is not None), default=None)
        if not page.has_more:
            marks = [at for at in (self.watermark, newest) if at is not None]
            return Checkpoint(self.version + 1, max(marks, default=None))
        if page.cursor is not None and page.cursor == self.cursor:
            raise ExporterFailed("it says that there is more, and names the same cursor again", restart=True)
        if page.cursor is not None:
            return replace(self, version=self.version + 1, cursor=page.cursor, newest=newest)
        if page.newest is None or self.since is None or page.newest <= self.since:
            raise ExporterFailed("it says that there is more, without a cursor or a newer snapshot", restart=True)
        return replace(self, version=self.version + 1, since=page.newest, cursor=None, newest=newest)

    @property
    def is_done(self) -> bool:
        """Return whether no window is being read."""
        return self.since is None


WINDOW: Final = "/v1/snapshots/window"
ATTEMPTS: Final = 3
# Before the second attempt; it doubles with each.
FIRST_PAUSE_S: Final = 0.2
TRIED_AGAIN: Final = frozenset((429, 500, 502, 503, 504))


class Exporters:
    """Asks exporters; at most `connections` at once. Connections are opened as they are needed, and closed with it."""

    def __init__(self, *, connections: int, answer_bytes: int, limit: int) -> None:
        """`answer_bytes` is the largest answer, `limit` how many snapshots are asked for at once."""
        self._connections, self._answer_bytes, self._limit = connections, answer_bytes, limit
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def page(self, source: Source, checkpoint: Checkpoint) -> bytes:
        """Return the answer to what a checkpoint asks for next. Raises `ExporterFailed`."""
        pause_s = FIRST_PAUSE_S
        for attempts_left in reversed(range(ATTEMPTS)):
            try:
                async with asyncio.timeout(source.timeout_s):
                    status, body = await self._asked(source, checkpoint)
                if status == 200:
                    return body
                why = f"it answers with status {status}"
                if status not in TRIED_AGAIN:
                    raise ExporterFailed(why, restart=checkpoint.cursor is not None)
            except TimeoutError:
                why = f"it does not answer within {source.timeout_s:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                why = f"it can't be reached ({type(error).__name__})"
            if attempts_left:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        raise ExporterFailed(why)

    async def _asked(self, source: Source, checkpoint: Checkpoint) -> tuple[int, bytes]:
        """Return status and body. Raises `ExporterFailed` for a body that is too large."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections)
            jar = aiohttp.DummyCookieJar()
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=True, cookie_jar=jar, auto_decompress=False
            )
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "metergate"}
        if source.token is not None:
            headers["Authorization"] = f"Bearer {source.token}"
        since, until = checkpoint.since or datetime.now(UTC), checkpoint.until or datetime.now(UTC)
        asked = {"since": rfc3339(since), "until": rfc3339(until), "limit": str(self._limit)}
        if checkpoint.cursor is not None:
            asked["cursor"] = checkpoint.cursor
        url = f"{source.base_url}{WINDOW}"
        async with self._session.get(url, params=asked, headers=headers, allow_redirects=False) as response:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ExporterFailed("its answer is compressed, which was not asked for", restart=True)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > self._answer_bytes:
                    raise ExporterFailed(f"its answer is larger than {self._answer_bytes} bytes: ask for less at once")
            return response.status, bytes(body)
