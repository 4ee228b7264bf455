"""Requests that are sent at once, and answers that are looked at where nobody waits for them."""

import asyncio

from gateway.upstream.base import UpstreamCut
from gateway.upstream.transport import HttpTransport, Response, StaleConnection, may_repeat
from tests.support.providers import BOUND_S, outcome, post, serving, take_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Looks:
    """Counts what was told of an answer."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def until(self, made: Response, *names: str) -> None:
        async with asyncio.timeout(BOUND_S):
            while not any(getattr(made, name) for name in names):
                await self.told.wait()
                self.told.clear()


async def served_often(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await take_request(reader):
        writer.write(OK)


async def test_it_leaves_over_a_connection_that_is_free_and_only_then(transport):
    looks = Looks()
    async with serving(served_often) as url:
        assert transport.send_now(post(url), looks.told.set) is None
        assert await outcome(transport, post(url)) == b"ok"
        for _ in range(3):
            made = transport.send_now(post(url), looks.told.set)
            assert made is not None
            assert made.read_on(100) is None
            await looks.until(made, "ended")
            assert (made.status, made.read_on(100)) == (200, b"ok")
            assert transport.send_now(post(url), looks.told.set) is None, "it is in use"
            made.release()


async def test_an_account_that_has_its_share_waits(transport):
    async with serving(served_often) as url:
        request = post(url)
        request.account = "one"
        small = HttpTransport(connections=2, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
        first, second = await small.send(request), await small.send(post(url))
        await second.read(100)
        second.release()
        assert small.send_now(request, lambda: None) is None
        await first.read(100)
        first.release()
        made = small.send_now(request, lambda: None)
        assert made is not None
        made.release()
        await small.close()


async def test_one_that_crosses_its_connection_s_close_may_be_repeated(transport):
    looks, served = Looks(), 0

    async def peer(reader, writer):
        nonlocal served
        await take_request(reader)
        served += 1
        writer.write(OK)
        await reader.read(1)
        writer.transport.abort()

    async with serving(peer) as url:
        request = post(url, headers={"Idempotency-Key": "one"})
        assert may_repeat(request)
        assert not may_repeat(post(url))
        assert await outcome(transport, request) == b"ok"
        made = transport.send_now(request, looks.told.set)
        assert made is not None
        await looks.until(made, "failure")
        assert isinstance(made.failure, StaleConnection)
        made.release()
        again = await transport.repeat(request)
        assert await again.read(100) == b"ok"
        again.release()
        assert served == 2


async def test_a_stream_is_passed_as_it_comes_and_waits_for_who_can_take_no_more(transport):
    looks, more = Looks(), asyncio.Event()

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(OK)
        await take_request(reader)
        writer.write(CHUNKED + b"3\r\none\r\n")
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        await reader.read()

    taken = []

    def take(piece):
        taken.append(piece)
        return len(taken) > 1

    async with serving(peer) as url:
        assert await outcome(transport, post(url)) == b"ok"
        made = transport.send_now(post(url), looks.told.set)
        assert made is not None
        await looks.until(made, "status")
        made.pass_to(take)
        assert (taken, made.passing()) == ([b"one"], "stalled")
        more.set()
        made.go_on()
        await looks.until(made, "ended")
        assert (taken, made.passing(), made.broken) == ([b"one", b"two"], "over", None)
        made.stop_passing()
        made.release()


async def test_who_leaves_before_the_head_leaves_an_answer_that_may_still_come(transport):
    looks, go_on = Looks(), asyncio.Event()

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(OK)
        await take_request(reader)
        await go_on.wait()
        writer.write(OK)
        await reader.read()

    async with serving(peer) as url:
        assert await outcome(transport, post(url)) == b"ok"
        made = transport.send_now(post(url), looks.told.set)
        assert made is not None
        assert made.leave()
        go_on.set()
        assert await (await made.head()).read(100) == b"ok"
        made.release()


async def test_who_leaves_before_all_of_it_is_sent_ends_it(transport):
    async def peer(reader, writer):
        await take_request(reader)
        writer.write(OK)
        await asyncio.Event().wait()

    async with serving(peer) as url:
        assert await outcome(transport, post(url)) == b"ok"
        made = transport.send_now(post(url, b"x" * 30_000_000), lambda: None)
        assert made is not None
        assert not made.leave()
        assert isinstance(made.failure, UpstreamCut)


async def test_closing_cuts_all_answers_also_where_who_looks_lets_go_at_once():
    made = HttpTransport(connections=3, connect_timeout_s=BOUND_S, timeout_s=BOUND_S)
    answers: list[Response] = []

    async def peer(reader, writer):
        await take_request(reader)
        writer.write(OK)
        await reader.read()

    def look() -> None:
        for each in answers:
            if each.failure is not None:
                each.release()

    async with serving(peer) as url:
        first = [await made.send(post(url)) for _ in range(3)]
        for each in first:
            await each.read(100)
            each.release()
        for _ in first:
            sent = made.send_now(post(url), look)
            assert sent is not None
            answers.append(sent)
        await made.close()
        assert [type(each.failure) for each in answers] == [UpstreamCut] * 3
