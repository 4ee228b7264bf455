"""The request log's file: every line, none that holds a request up, and what becomes of those that can't be written."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.proxy.records import BATCH, Line, RequestLog

WAIT_S = 60.0


def line(number: int) -> Line:
    return Line(
        at_ms=1_800_000_000_123,
        request_id=f"r{number}",
        account_id="acc_1",
        key_id="key_1",
        key_prefix="mg_abcdefg",
        endpoint="/v1/chat/completions",
        model="demo",
        provider="local",
        status=200,
        code=None,
        stream=False,
        latency_ms=12,
        input_tokens=7,
        output_tokens=9,
        cost_nano=1_500,
        charged_nano=2_000,
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_line_is_written_in_order(tmp_path):
    path = tmp_path / "requests.jsonl"
    log = RequestLog(str(path), 10 * BATCH)
    for number in range(3 * BATCH):
        log.write(line(number))
    log.close()
    records = [json.loads(each) for each in path.read_text().splitlines()]
    assert [each["request_id"] for each in records] == [f"r{number}" for number in range(3 * BATCH)]
    assert records[0]["time"] == "2027-01-15T08:00:00.123Z"
    assert (records[0]["cost_usd"], records[0]["charged_usd"]) == ("0.0000015", "0.000002")
    assert path.stat().st_mode & 0o777 == 0o600
    assert log.dropped == 0


def test_a_reader_that_stands_still_holds_nothing_up(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = RequestLog(str(path), 100)
    for number in range(20_000):  # a pipe holds 64 KiB, about 200 of them
        log.write(line(number))
    assert 0 < log.dropped < 20_000
    os.close(reader)  # the writer is told that nobody reads
    log.close()


def test_a_file_that_was_moved_away_is_made_anew(tmp_path):
    path, moved = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    log = RequestLog(str(path), 100)
    log.write(line(0))
    until(lambda: path.stat().st_size > 0)
    path.rename(moved)

    def written():
        log.write(line(1))
        time.sleep(0.05)
        return path.exists() and path.stat().st_size > 0

    until(written)
    log.close()
    assert json.loads(moved.read_text().splitlines()[0])["request_id"] == "r0"


def test_a_full_disk_is_counted():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = RequestLog("/dev/full", 100)
    log.write(line(0))
    until(lambda: log.dropped == 1)
    log.close()
    assert not any(thread.name == "request-log" and thread.is_alive() for thread in threading.enumerate())


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(OSError, match="no"):
        RequestLog(str(tmp_path / "no" / "such"), 100)
