"""What clients do to a gateway: stop reading for a while or for ever, and send bodies that are dear to parse.

Both are strikes beside the ordinary load, made by customers of their own; slow readers' requests are judged with the
rest. Slow readers speak plain sockets: no library reads ahead for them, and the kernel takes little.
"""

import asyncio
import random
import secrets
import socket
import time
from contextlib import suppress

import aiohttp
import msgspec
import psutil

from tests.chaos.clients import DONE, Ended, Exchange
from tests.chaos.faults import Fault
from tests.chaos.harness import Customer, Stack
from tests.chaos.plan import MAX_OUTPUT_TOKENS, Plan

# What a slow reader's kernel takes for it.
RECEIVE_BYTES = 8192
READ_BYTES = 4096
# Of each kind, at a time.
READERS = 3
# Shorter than WRITE_TIMEOUT_S.
PAUSE_S = 8.0
# So long a client that reads no more looks on.
GIVE_UP_S = 30.0
WRITE_TIMEOUT_S = 12
# Short, so that a strike sees the end of them.
DEFAULTS_OF_SLOW_READERS = {"client_write_timeout_s": WRITE_TIMEOUT_S}

BODY_BYTES = 32 << 20
BODY_MARGIN = 4096
HOSTILE_KEYS = 4
HOSTILE_S = 8.0
MESSAGE = b'{"":[]}'
PAUSE_AFTER_BODY_S = 0.01


async def stop_reading(stack: Stack, chance: random.Random) -> None:
    """Readers that read a little, then nothing for PAUSE_S or for ever."""
    customer = await _once(stack, "slow", 0)
    await asyncio.gather(
        *(
            _read_slowly(stack, customer, chance.randint(0, 3) * READ_BYTES, for_ever=number < READERS)
            for number in range(2 * READERS)
        )
    )


async def _read_slowly(stack: Stack, customer: Customer, before: int, *, for_ever: bool) -> None:
    plan = Plan(f"slow-{secrets.token_hex(6)}", "flood", 5, MAX_OUTPUT_TOKENS, 10, MAX_OUTPUT_TOKENS)
    exchange = Exchange(plan, customer, True, time.monotonic())
    stack.load.exchanges.append(exchange)
    body = msgspec.json.encode(plan.body(stream=True, max_tokens=MAX_OUTPUT_TOKENS))
    host, _, port = stack.address.rpartition(":")
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {stack.address}\r\nAuthorization: Bearer {customer.key}\r\n"
        f"X-Request-Id: {plan.marker}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    with socket.socket() as connection, suppress(OSError, TimeoutError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (host, int(port)))
        await loop.sock_sendall(connection, head.encode() + body)
        seen = b""
        while b"word" not in seen and (read := await loop.sock_recv(connection, READ_BYTES)):
            seen += read
        _note_head(exchange, seen)
        exchange.got_output = b"word" in seen
        while before > 0 and (read := await loop.sock_recv(connection, READ_BYTES)):
            before -= len(read)
        if for_ever:
            await _closed(connection)
        else:
            await asyncio.sleep(PAUSE_S)
            exchange.ended = await _rest(connection)
    exchange.ended_s = time.monotonic()


def _note_head(exchange: Exchange, seen: bytes) -> None:
    first, *lines = seen.partition(b"\r\n\r\n")[0].split(b"\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in lines)
    exchange.request_id = headers.get(b"x-request-id", b"").decode().upper() or None
    exchange.status = int(first.split(b" ")[1]) if first else 0
    if exchange.status not in (0, 200):
        exchange.ended = Ended.refused


async def _closed(connection: socket.socket) -> None:
    """Until the other side has aborted the connection, of which the kernel knows without a read; or GIVE_UP_S."""
    ends_s = time.monotonic() + GIVE_UP_S
    while time.monotonic() < ends_s:
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return
        await asyncio.sleep(0.1)


async def _rest(connection: socket.socket) -> Ended:
    loop, tail = asyncio.get_running_loop(), b""
    try:
        while read := await loop.sock_recv(connection, 1 << 16):
            tail = (tail + read)[-4096:]
    except OSError:
        return Ended.cut
    if not tail.endswith(b"0\r\n\r\n"):
        return Ended.cut
    return Ended.whole if DONE in tail else Ended.odd


async def send_hostile(stack: Stack, chance: random.Random) -> None:
    """Bodies of BODY_BYTES that are nothing but tiny messages, again and again, from HOSTILE_KEYS keys at once."""
    ends_s = time.monotonic() + HOSTILE_S
    body = _hostile_body()
    answers: dict[str, int] = {}

    async def one(customer: Customer) -> None:
        headers = {"Authorization": f"Bearer {customer.key}", "Content-Type": "application/json"}
        while time.monotonic() < ends_s:
            try:
                url = f"{stack.url}/v1/chat/completions"
                async with stack.session.post(url, data=body, headers=headers) as response:
                    await response.read()
                    outcome = str(response.status)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                outcome = type(error).__name__
            answers[outcome] = answers.get(outcome, 0) + 1
            await asyncio.sleep(PAUSE_AFTER_BODY_S)

    async def look() -> int:
        most = 0
        while True:
            for pid in stack.worker_pids():
                with suppress(psutil.NoSuchProcess):
                    most = max(most, psutil.Process(pid).memory_info().rss)
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                return most

    customers = [await _once(stack, "hostile", number) for number in range(HOSTILE_KEYS)]
    began_s, looking = time.monotonic(), asyncio.create_task(look())
    await asyncio.gather(*map(one, customers))
    looking.cancel()
    summary = ", ".join(f"{count} {what}" for what, count in sorted(answers.items()))
    stack.notes.append(
        f"hostile bodies: {summary}; a worker's memory up to {await looking >> 20} MiB; "
        f"others' answers late by p50, p99: {lateness(stack, began_s)}"
    )


def _hostile_body() -> bytes:
    """Within the edge's bound, and without a plan: a provider that it reaches refuses it."""
    head, tail = b'{"model":"chaos","max_tokens":1,"messages":[', b"]}"
    count = (BODY_BYTES - BODY_MARGIN - len(head) - len(tail)) // (len(MESSAGE) + 1)
    return head + b",".join([MESSAGE] * count) + tail


def lateness(stack: Stack, since_s: float) -> str:
    """How much longer whole answers took than their provider, in milliseconds."""
    assert stack.load is not None
    late = sorted(
        each.ended_s - each.sent_s - each.plan.delay_ms * each.plan.chunks / 1000
        for each in stack.load.exchanges
        if each.ended is Ended.whole and each.ended_s >= since_s
    )
    return f"{late[len(late) // 2] * 1000:.0f}, {late[len(late) * 99 // 100] * 1000:.0f} ms" if late else "none"


async def _once(stack: Stack, name: str, number: int) -> Customer:
    """The customer of this name, made when it is first needed."""
    made = stack.others.get(f"{name}{number}")
    if made is None:
        made = stack.others[f"{name}{number}"] = await stack.customer("1000")
    return made


SLOW_READERS = Fault("clients that stop reading", stop_reading, 1.0)
HOSTILE = Fault("bodies of 32 MiB of tiny messages", send_hostile, 1.0)
