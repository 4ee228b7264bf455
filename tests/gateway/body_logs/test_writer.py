"""What waits is written, an account's requests in a file; what fails is tried again; what is too old is removed."""

import asyncio
import gzip
import json
import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.body_logs.places import Folder
from gateway.body_logs.recording import PIECE_BYTES, REQUEST_BYTES, BodyLog
from gateway.body_logs.redaction import Redactor
from gateway.body_logs.sealed_file import Keys
from gateway.body_logs.writer import BodyWriter
from gateway.object_stores import StoreFailed
from gateway.proxy.decoding_tap import decoded
from tests.gateway.body_logs.support import KEY, config, written

OK_LINES = b"Content-Type: application/json\r\nx-metergate-provider: local\r\n"
EVENT_LINES = b"content-type: text/event-stream; charset=utf-8\r\n"
DAY_S = 86_400


class World:
    """Requests of accounts, at a time that a test sets."""

    def __init__(self, folder, **fields):
        self.now_s, self.made = 1_800_000_000.0, 0
        self.log = BodyLog(config(folder, **fields), clock=lambda: self.now_s, wall_clock=lambda: self.now_s)
        self.folder, self.place = folder, Folder(folder, 0)
        redactor = Redactor(self.log.config.redact, self.log.config.max_field_bytes)
        self.writer = BodyWriter(self.log, self.place, redactor, Keys(KEY), "01G", decoded)

    def begin(self, account="acc_1", body=b'{"model": "demo"}', *, stream=False, key="key_1", model="demo", **headers):
        self.made += 1
        endpoint = SimpleNamespace(path="/v1/chat/completions")
        exchange = SimpleNamespace(
            match=SimpleNamespace(endpoint=endpoint), headers=CIMultiDict(headers), whole=False, ended_for="client_gone"
        )
        course = SimpleNamespace(exchange=exchange, request_id=f"{self.made:026d}", started_s=self.now_s)
        principal = SimpleNamespace(account_id=account, key_id=key)
        recording = self.log.begin(course, principal, SimpleNamespace(model=model, stream=stream), body)
        return recording, exchange

    def request(self, account="acc_1", answer=b'{"answer": 1}', lines=OK_LINES, **options):
        recording, exchange = self.begin(account, **options)
        if recording is None:
            return False
        recording.began(200, lines)
        recording.wrote(answer)
        exchange.whole = True
        recording.ended()
        return True


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "bodies")


async def test_requests_are_written_by_account(world):
    for account in ("acc_1", "acc_2", "acc_1"):
        assert world.request(account)
    assert world.log.requests == 3
    await world.writer.round()
    lines = await written(world.folder)
    assert [(line["account_id"], line["provider"], line["response"]) for line in lines] == [
        ("acc_1", "local", {"answer": 1}),
        ("acc_2", "local", {"answer": 1}),
        ("acc_1", "local", {"answer": 1}),
    ]
    names = await world.place.names("2027-01-15")
    assert names == [
        f"2027-01-15/acc_1/{1:026d}-{3:026d}-01G.jsonl.gz.sealed",
        f"2027-01-15/acc_2/{2:026d}-{2:026d}-01G.jsonl.gz.sealed",
    ]
    assert (world.log.requests, world.log.size_bytes, world.log.waiting) == (0, 0, {})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x00"])
async def test_no_prompt_ends_a_line(world, end):
    evil = f'x{end}{{"request_id": "forged"}}{end}'
    assert world.request(body=json.dumps({"content": evil, evil: 1}, ensure_ascii=False).encode(), model=evil)
    assert world.request()
    await world.writer.round()
    (name,) = await world.place.names("2027-01-15")
    text = b"\n".join(Keys(KEY).lines(await world.place.get(name))).decode()
    one, two = [json.loads(line) for line in text.splitlines()]
    assert (one["request"]["content"], one["model"], two["request_id"]) == (evil, evil, f"{2:026d}")


async def test_what_a_client_names_as_its_model_is_redacted(world):
    assert world.request(model="ann@example.com")
    await world.writer.round()
    assert (await written(world.folder))[0]["model"] == "[mail]"


async def test_a_place_that_fails_is_tried_again_with_the_same_file(world):
    world.folder.write_text("")  # no folder
    assert world.request("acc_1")
    assert world.request("acc_2")
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await world.writer.round()
        assert "bodies of 2 requests wait to be written" in world.writer.trouble
    assert world.log.requests == 2
    world.folder.unlink()
    await world.writer.round()
    assert world.writer.trouble is None
    await world.writer.round()
    assert [line["account_id"] for line in await written(world.folder)] == ["acc_1", "acc_2"]
    assert (world.log.requests, world.log.size_bytes, world.log.dropped) == (0, 0, 0)


async def test_an_interrupted_round_loses_nothing(world, monkeypatch):
    sealing = world.writer._keys.seal

    def slowly(account, lines):
        time.sleep(0.2)
        return sealing(account, lines)

    monkeypatch.setattr(world.writer._keys, "seal", slowly)
    assert world.request()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await world.writer.round()
    await world.writer.close()
    assert len(await written(world.folder)) == 1
    assert world.log.dropped == 0


async def test_what_is_lost_at_the_end_is_counted(world):
    world.folder.write_text("")
    assert world.request()
    await world.writer.close()
    assert world.log.dropped == 1


async def test_a_body_on_which_our_own_code_fails_does_not_hold_up_the_others(world, monkeypatch, caplog):
    whole = world.writer._redactor.whole

    def failing(body):
        if b"evil" in body:
            raise RuntimeError("of a secret")
        return whole(body)

    monkeypatch.setattr(world.writer._redactor, "whole", failing)
    assert world.request(body=b'{"evil": 1}')
    assert world.request()
    await world.writer.round()
    one, two = await written(world.folder)
    assert (one["request"], one["left_out"], two["left_out"]) == (None, {"request": "failed"}, {})
    assert "RuntimeError" in caplog.text
    assert "of a secret" not in caplog.text


async def test_a_file_that_cannot_be_made_is_dropped_and_counted(world, monkeypatch, caplog):
    sealing = world.writer._keys.seal

    def failing(account, lines):
        if account == "acc_1":
            raise RuntimeError("of a secret")
        return sealing(account, lines)

    monkeypatch.setattr(world.writer._keys, "seal", failing)
    for account in ("acc_1", "acc_1", "acc_2"):
        assert world.request(account)
    await world.writer.round()
    assert [line["account_id"] for line in await written(world.folder)] == ["acc_2"]
    assert (world.log.dropped, world.log.requests, world.log.size_bytes, world.log.waiting) == (2, 0, 0, {})
    assert "2 requests of acc_1 are lost: RuntimeError" in caplog.text
    assert "of a secret" not in caplog.text
    monkeypatch.undo()
    assert world.request("acc_1")
    await world.writer.round()
    assert len(await written(world.folder)) == 2


async def test_days_that_are_over_are_removed(world):
    for day in range(33):
        world.now_s = 1_800_000_000.0 + day * DAY_S
        assert world.request()
        await world.writer.round()
    await world.writer.remove_old()
    days = await world.place.days()
    assert (days[0], days[-1], len(days)) == ("2027-01-17", "2027-02-16", 31)


async def test_a_day_that_cannot_be_removed_holds_up_no_other(world, monkeypatch):
    for day in range(3):
        world.now_s = 1_800_000_000.0 + day * DAY_S
        assert world.request()
        await world.writer.round()
    removing = Folder.remove

    async def failing(place, day):
        if day == "2027-01-15":
            raise StoreFailed("no permission")
        return await removing(place, day)

    monkeypatch.setattr(Folder, "remove", failing)
    world.now_s += 60 * DAY_S
    with pytest.raises(StoreFailed, match="no permission"):
        await world.writer.remove_old()
    assert await world.place.days() == ["2027-01-15"]


async def test_bodies_that_are_too_large_are_left_out(tmp_path):
    world = World(tmp_path / "bodies", max_body_bytes=1024)
    assert world.request(body=b'"%b"' % (b"x " * 600), answer=b'"%b"' % (b"y " * 600))
    stream, exchange = world.begin(stream=True)
    stream.began(200, EVENT_LINES)
    for _ in range(20):
        stream.wrote(b'data: {"text": "%b"}\n\n' % (b"word " * 20))
    exchange.whole = True
    stream.ended()
    await world.writer.round()
    one, two = await written(world.folder)
    assert one["left_out"] == {"request": "too_large", "response": "too_large"}
    assert (one["request_bytes"], one["response_bytes"]) == (1202, 1202)
    assert two["response"].count("data: ") == 8
    assert (two["cut"], two["response_bytes"]) == (1, 20 * 120)


async def test_an_answer_in_the_place_of_one_that_nobody_has_seen(world):
    recording, exchange = world.begin(stream=True)
    recording.began(200, EVENT_LINES)
    recording.began(503, OK_LINES)
    recording.wrote(b'{"error": {}}')
    exchange.whole = True
    recording.ended()
    await world.writer.round()
    (line,) = await written(world.folder)
    assert (line["status"], line["response"]) == (503, {"error": {}})


async def test_compressed_answers_are_read(world):
    lines = OK_LINES + b"content-encoding: gzip\r\n"
    assert world.request(answer=gzip.compress(b'{"to": "ann@example.com"}'), lines=lines)
    assert world.request(answer=b"no gzip", lines=lines)
    assert world.request(answer=gzip.compress(b" " * (8 << 20)), lines=lines)
    assert world.request(answer=b"\x1b", lines=OK_LINES + b"content-encoding: br\r\n")
    await world.writer.round()
    found = await written(world.folder)
    assert [line["response"] for line in found] == [{"to": "[mail]"}, None, None, None]
    assert [line["left_out"].get("response") for line in found] == [None, "encoded", "encoded", "not_json"]


def test_what_waits_is_bounded_and_an_account_has_its_share(tmp_path):
    world = World(tmp_path, waiting_requests=6, account_share=500_000)
    assert [world.request("acc_1") for _ in range(5)] == [True] * 3 + [False] * 2
    assert [world.request("acc_2") for _ in range(5)] == [True] * 3 + [False] * 2
    assert not world.request("acc_3")
    assert world.log.dropped == 5
    few = World(tmp_path, waiting_bytes=1 << 20, account_share=500_000)
    recording, _ = few.begin()
    for _ in range(10):
        recording.wrote(b"x" * 100_000)
    assert (few.log.dropped, few.log.size_bytes, few.log.requests) == (1, 0, 0)
    recording.ended()
    assert few.log.waiting == {}
    assert not few.begin(body=b"x" * 600_000)[0]


@given(st.lists(st.tuples(st.sampled_from(["acc_1", "acc_2"]), st.integers(0, 3000), st.lists(st.integers(0, 3000)))))
def test_room_is_what_is_kept(tmp_path_factory, requests):
    world = World(tmp_path_factory.getbasetemp(), waiting_bytes=20_000, waiting_requests=5, max_body_bytes=4_000)
    for account, size, pieces in requests:
        recording, exchange = world.begin(account, b"x" * size)
        if recording is None:
            continue
        recording.began(200, b"")
        for piece in pieces:
            recording.wrote(b"y" * piece)
        exchange.whole = True
        recording.ended()
    entries = [entry for waiting in world.log.waiting.values() for entry in waiting]
    assert world.log.size_bytes == sum(entry.taken_bytes for entry in entries) <= 20_000
    assert world.log.requests == len(entries) <= 5
    for entry in entries:
        answered = sum(map(len, entry.pieces))
        kept = len(entry.request or b"") + answered
        assert kept + REQUEST_BYTES <= entry.taken_bytes
        assert answered <= 4_000
    assert world.log.dropped + len(entries) == len(requests)
    assert PIECE_BYTES > 0


def test_who_is_sampled(tmp_path):
    draws = iter([0.0, 0.0099, 0.01, 0.9])
    log = BodyLog(config(tmp_path, sample=10_000), draw=lambda: next(draws))
    world = World(tmp_path)
    world.log = log
    assert [world.begin()[0] is not None for _ in range(4)] == [True, True, False, False]


def test_a_client_that_opts_out(tmp_path):
    header = {"X-Metergate-Body-Log": "off"}
    assert World(tmp_path).begin(**header)[0] is None
    assert World(tmp_path, client_opt_out=False).begin(**header)[0] is not None
