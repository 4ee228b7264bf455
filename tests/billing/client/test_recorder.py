"""Events that are recorded in the background: on disk first, delivered once it can be, and never lost silently."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from billing.client import recorder as recorder_module
from billing.client.recorder import EventSpool
from billing.wal_segment import record_of, records_in
from metergate import Client, SpoolRules
from tests.billing.client.support import Answer, debit, refused, scripted, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONG = 3600.0


def rules(folder: Path, **more: Any) -> SpoolRules:
    return SpoolRules(folder, **{"first_wait_s": 0.001, "longest_wait_s": 0.002, "drain_s": 20.0, **more})


def result(index: int, event: dict[str, Any], code: str | None = None) -> dict[str, Any]:
    fields = {"index": index, "event_id": event["event_id"], "status": "refused" if code else "recorded"}
    if code:
        return {**fields, "error": {"code": code, "message": "No."}}
    return {**fields, "debit": debit(event)}


def results(body: Any, code_of: Callable[[str], str | None] = lambda event_id: None) -> Answer:
    data = [result(index, event, code_of(event["event_id"])) for index, event in enumerate(body["events"])]
    return 200, {"data": data, "recorded": 0, "replayed": 0, "refused": 0}


def on_disk(folder: Path) -> list[str]:
    found = [event for path in sorted(folder.glob("*.events")) for event in records_in(path.read_bytes())[0]]
    return [json.loads(event)["event_id"] for event in found]


def parked(folder: Path) -> list[str]:
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line)["event"]["event_id"] for line in lines]


async def record(client: Client, *event_ids: str, **more: Any) -> None:
    fields = {"amount_usd": "1.00", "on_error": "spool", **more}
    assert await asyncio.gather(*(client.record("a", event_id=each, **fields) for each in event_ids))


async def settled(client: Client, waiting: int = 0) -> None:
    async with asyncio.timeout(60):
        while client.spooled.waiting > waiting:
            await asyncio.sleep(0.001)


async def test_events_are_on_disk_before_they_are_delivered(tmp_path):
    gate = asyncio.Event()
    async with scripted(lambda path, body: results(body)) as (server, url):
        server.gate = gate.wait
        before = datetime.now(UTC)
        async with service(url, spool=rules(tmp_path)) as client:
            await record(client, "e0", "e1", "e2", meter="m", quantity="1.5")
            assert sorted(on_disk(tmp_path)) == ["e0", "e1", "e2"]
            gate.set()
            await settled(client)
            assert client.spooled.delivered == 3
        (first, *_) = (event for _, body in server.calls for event in body["events"])
        assert before.timestamp() - 0.001 <= datetime.fromisoformat(first["time"]).timestamp()
        assert (first["quantity"], first["account_id"]) == ("1.5", "a")
        assert os.listdir(tmp_path) == []  # nothing is left


@pytest.mark.parametrize(
    "answer",
    [None, refused(401, "invalid_api_key"), refused(404, "not_found"), (200, "<html>"), (200, {"data": []}),
     (400, "<html>"), refused(503, "temporarily_unavailable", **{"Retry-After": "0"})],
)  # fmt: skip
async def test_what_fails_as_a_whole_is_kept(tmp_path, answer):
    tries = 0

    def some_time(path, body):
        nonlocal tries
        tries += 1
        return answer if tries < 4 else results(body)

    async with scripted(some_time) as (_, url), service(url, spool=rules(tmp_path)) as client:
        await record(client, "e0", "e1")
        await settled(client)
        assert (client.spooled.delivered, client.spooled.parked, client.spooled.lost) == (2, 0, 0)
    assert tries >= 4


async def test_the_dead_leave_events_to_others_of_the_same_service(tmp_path):
    async with scripted(lambda path, body: None) as (server, url):
        async with service(url, spool=rules(tmp_path)) as client:
            await record(client, "e0")
        async with service(url, spool=rules(tmp_path), service_name="other"):
            pass
        assert on_disk(tmp_path) == ["e0"]
        server.answer = lambda path, body: results(body)
        async with service(url, spool=rules(tmp_path)) as first, service(url, spool=rules(tmp_path)) as second:
            await settled(first)
            assert (first.spooled.delivered, second.spooled.delivered) == (1, 0)
            await first.record("a", event_id="e1", amount_usd="1", on_error="spool")
    assert os.listdir(tmp_path) == []
    assert [event["event_id"] for _, body in server.calls[-2:] for event in body["events"]] == ["e0", "e1"]


async def test_who_is_cancelled_in_closing_leaves_events_to_others(tmp_path):
    async with scripted(lambda path, body: None) as (server, url):
        sent = asyncio.Event()

        async def never():
            sent.set()
            await asyncio.Event().wait()

        server.gate = never

        async def use():
            async with service(url, spool=rules(tmp_path, drain_s=LONG)) as client:
                await record(client, "e0")
                await sent.wait()

        task = asyncio.create_task(use())
        await sent.wait()
        for _ in range(9):  # it waits for what was sent
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        other = EventSpool(rules(tmp_path), url, "aura", iter("XYZ").__next__)
        other.open()
        assert [json.loads(event)["event_id"] for event in other.adopt(())] == ["e0"]
        other.close(keep=False)


async def test_one_at_fault_keeps_no_other_back(tmp_path):
    """Refused alone it is parked; where the whole batch is, it is found by halves. What passes goes to the tail."""
    busy = 2

    def code_of(event_id):
        nonlocal busy
        if event_id == "busy" and busy:
            busy -= 1
            return "temporarily_unavailable"
        return "model_not_priced" if event_id == "unpriced" else None

    def answer(path, body):
        if any(event["event_id"] == "poison" for event in body["events"]):
            return 413, "<html>"
        return results(body, code_of)

    async with scripted(answer) as (server, url), service(url, spool=rules(tmp_path)) as client:
        gate = asyncio.Event()
        server.gate = gate.wait
        await record(client, "busy", *(f"e{number}" for number in range(9)), "poison", "unpriced")
        gate.set()
        await settled(client)
        assert (client.spooled.delivered, client.spooled.parked, client.spooled.lost) == (10, 2, 0)
        assert sorted(parked(tmp_path)) == ["poison", "unpriced"]
        server.answer = lambda path, body: results(body)
        assert await client.retry_parked() == 2
        await settled(client)
        assert client.spooled.delivered == 12
        assert parked(tmp_path) == []
        assert await client.retry_parked() == 0


class FullDisk:
    """A disk that takes `left` bytes more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left, self.write = left, os.write
        monkeypatch.setattr(recorder_module.os, "write", self)

    def __call__(self, fd: int, data: Any) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self.write(fd, data[: self.left])
        self.left -= done
        return done


class Unreadable:
    """An answer's usage that fails when it is read."""

    @property
    def input_tokens(self) -> int:
        raise KeyError("input_tokens")


async def test_without_room_on_disk_an_event_is_sent_at_once_or_counted(tmp_path, monkeypatch, caplog):
    def answer(path, body):
        if "events" in body:
            return None
        return None if body["event_id"] == "e2" else results({"events": [body]})

    async with scripted(answer) as (server, url):
        async with service(url, spool=rules(tmp_path)) as client:
            await record(client, "e0")
            with monkeypatch.context() as patched:
                FullDisk(patched, 30)
                await record(client, "e1")
                await record(client, "e2")
            assert next(body["event_id"] for _, body in server.calls if "events" not in body) == "e1"
            assert (client.spooled.waiting, client.spooled.lost) == (1, 1)
            assert "the event e2 is lost" in caplog.text
            await record(client, "e3")  # nothing follows a record that is not whole
            assert on_disk(tmp_path) == ["e0", "e3"]
            await record(client, "e4", tags=object())  # what can't be sent at all
            assert client.spooled.lost == 2
            assert "e4 is lost" in caplog.text
            for usage, tags in (({"prompt_tokens": 1, "completion_tokens": 2}, 5), (Unreadable(), None)):
                await client.record_llm("a", "openai", "gpt", usage, tags=tags, on_error="spool")
            assert client.spooled.lost == 4
        with pytest.raises(RuntimeError):
            _ = service(url).spooled


def test_the_spool_is_bounded_and_written_anew(tmp_path):
    events = [f'{{"event_id":"{number:04}"}}'.encode() for number in range(100)]
    own = EventSpool(rules(tmp_path, most_bytes=2000), "http://x", "aura", iter("ABCDEFGH").__next__)
    own.open()
    own.append(events[:50])
    with pytest.raises(OSError, match="as many events wait"):
        own.append(events[50:], events[:50])
    assert on_disk(tmp_path) == [f"{number:04}" for number in range(50)]
    own.append(events[50:], events[48:50])  # the others are delivered
    assert on_disk(tmp_path) == [f"{number:04}" for number in range(48, 100)]
    other = EventSpool(rules(tmp_path), "http://x", "aura", iter("XYZ").__next__)
    other.open()
    assert other.adopt(()) == []  # its process lives
    own.close(keep=True)
    assert other.adopt(()) == events[48:]
    other.rewrite(events[99:])
    assert on_disk(tmp_path) == ["0099"]
    other.close(keep=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("end", "damaged"), [(b"\0" * 4096, False), (record_of(b"{}")[:-1], False), (b"\x02\0\0\0\0\0\0\0{}" * 2, True)]
)
def test_what_can_not_be_read_is_kept(tmp_path, end, damaged):
    """A record that is cut off, or zeros, is what the dead leave; anything else had events in it."""
    own = EventSpool(rules(tmp_path), "http://x", "aura", iter("ABC").__next__)
    own.open()
    own.append([b'{"event_id":"e0"}'])
    own.close(keep=True)
    (left,) = tmp_path.iterdir()
    left.write_bytes(left.read_bytes() + end)
    own.open()
    assert own.adopt(()) == [b'{"event_id":"e0"}']
    own.close(keep=False)
    assert [path.name for path in tmp_path.iterdir()] == ([left.with_suffix(".damaged").name] if damaged else [])


def test_a_full_parked_file_takes_no_more(tmp_path, monkeypatch):
    own = EventSpool(rules(tmp_path, most_parked_bytes=100), "http://x", "aura", iter("AB").__next__)
    own.open()
    own.park(b'{"event_id":"e0"}', "why")
    with monkeypatch.context() as patched:
        FullDisk(patched, 5)
        with pytest.raises(OSError, match="in part"):
            own.park(b'{"event_id":"e1"}', "why")
    with pytest.raises(OSError, match="is full"):
        own.park(b'{"event_id":"' + b"x" * 100 + b'"}', "why")
    assert parked(tmp_path) == ["e0"]
    with own.parked_path.open("ab") as torn:  # by a process that was killed
        torn.write(b'{"why":"')
    own = EventSpool(rules(tmp_path), "http://x", "aura", iter("CD").__next__)
    own.open()
    own.park(b'{"event_id":"e2"}', "why")
    assert own.unpark(()) == [b'{"event_id":"e0"}', b'{"event_id":"e2"}']
    own.close(keep=False)


RECORDS = """
import asyncio, os, signal, sys
from pathlib import Path
from metergate import Client, SpoolRules

async def main():
    rules = SpoolRules(Path(sys.argv[2]))
    async with Client(sys.argv[1], service_key="k" * 24, service_name="aura", spool=rules) as client:
        for number in range(20):
            await client.record("a", event_id=f"e{number}", amount_usd="1", on_error="spool")
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_a_killed_process_has_recorded_is_delivered(tmp_path):
    async with scripted(lambda path, body: None) as (server, url):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", RECORDS, url, str(tmp_path))
        assert await process.wait() == -signal.SIGKILL
        server.calls.clear()
        server.answer = lambda path, body: results(body)
        async with service(url, spool=rules(tmp_path)) as client:
            await settled(client)
            assert client.spooled.delivered == 20
        sent = [event["event_id"] for _, body in server.calls for event in body["events"]]
    assert list(dict.fromkeys(sent)) == [f"e{number}" for number in range(20)]  # one may be sent again
