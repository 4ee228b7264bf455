"""A command's way to a gateway, against servers that answer with the bytes of a test."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from billing.cli.client import CommandClient
from billing.client.calls import ANSWER_LIMIT_BYTES
from billing.client.errors import BadAnswer, Refused, Unreachable

Answer = Callable[[socket.socket], object]
TOTALS = (
    b'{"events":1,"input_tokens":1,"output_tokens":1,"total_tokens":2,'
    b'"charge_usd":"1.00","cost_usd":"1.00","brand_new":[1]}'
)


@contextmanager
def answering(answer: Answer) -> Iterator[tuple[str, bytearray]]:
    """Serve one connection: read a head, then `answer`. Gives the URL, and what is read."""
    received = bytearray()

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            link.settimeout(10)
            while b"\r\n\r\n" not in received:
                received.extend(link.recv(65536))
            answer(link)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", received
        finally:
            thread.join()


def bytes_of(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def test_a_call_and_its_answer():
    with answering(lambda link: link.sendall(bytes_of(TOTALS))) as (url, received):
        client = CommandClient(f"{url}/behind a/", admin_key="mine-ä", api_key="mg_1")
        totals = asyncio.run(client.usage(key_id="a&b"))
    assert totals.received["brand_new"] == [1]
    head = bytes(received).split(b"\r\n")
    assert head[0] == b"GET /behind%20a/api/billing/usage?key_id=a%26b HTTP/1.1"
    assert {b"X-Admin-Key: mine-\xc3\xa4", b"Authorization: Bearer mg_1"} <= set(head)


def test_a_body_in_chunks_or_up_to_the_end_of_the_connection():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(TOTALS), TOTALS)
    for answer in (chunked, b"HTTP/1.0 200 OK\r\n\r\n" + TOTALS):
        with answering(lambda link, answer=answer: link.sendall(answer)) as (url, _):
            assert asyncio.run(CommandClient(url).usage()).total_tokens == 2


def test_a_refusal():
    body = b'{"error":{"message":"No.","type":"x","param":null,"code":"not_found"}}'
    with (
        answering(lambda link: link.sendall(bytes_of(body, "404 Not Found"))) as (url, _),
        pytest.raises(Refused) as refused,
    ):
        asyncio.run(CommandClient(url).account("acc_1"))
    assert (refused.value.status, refused.value.code) == (404, "not_found")


@pytest.mark.parametrize(
    "answer",
    [
        bytes_of(b"<html>welcome</html>"),
        bytes_of(b"", "302 Found", "Location: http://127.0.0.1:1/\r\n"),
        bytes_of(b"x" * (ANSWER_LIMIT_BYTES + 1)),
    ],
    ids=["html", "redirect", "too much"],
)
def test_what_is_not_the_api(answer):
    def send(link):
        try:
            link.sendall(answer)
        except ConnectionError:  # the client has read enough
            return

    with answering(send) as (url, _), pytest.raises(BadAnswer) as bad:
        asyncio.run(CommandClient(url, admin_key="secret-of-mine").usage())
    assert url in str(bad.value)
    assert "secret-of-mine" not in str(bad.value)


@pytest.mark.parametrize("answer", [b"", b"220 mail\r\n", bytes_of(TOTALS)[:-5]], ids=["none", "no HTTP", "cut"])
def test_a_connection_that_breaks(answer):
    with answering(lambda link: link.sendall(answer)) as (url, _), pytest.raises(Unreachable, match="broke"):
        asyncio.run(CommandClient(url).usage())


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(Unreachable, match="connection refused"):
            asyncio.run(CommandClient(url).usage())
    with pytest.raises(Unreachable, match="its host name is not known"):
        asyncio.run(CommandClient("http://no-such-host.invalid").usage())


def drip(link: socket.socket) -> None:
    """Answer a byte at a time until the client has left."""
    link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    left = threading.Event()
    while not left.wait(0.01):
        try:
            link.sendall(b" ")
        except ConnectionError:
            left.set()


@pytest.mark.parametrize("answer", [lambda link: link.recv(1), drip], ids=["silent", "dripping"])
def test_no_answer_in_time(answer):
    with answering(answer) as (url, _), pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
        asyncio.run(CommandClient(url, timeout_s=0.2).usage())


def test_ctrl_c_ends_a_call():
    def interrupt(link):
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # the thread that waits, as in a command, which has no other
        link.recv(1)  # until the client has left

    before = signal.getsignal(signal.SIGINT)
    with answering(interrupt) as (url, _), pytest.raises(KeyboardInterrupt):
        asyncio.run(CommandClient(url, timeout_s=5).usage())
    assert signal.getsignal(signal.SIGINT) is before
