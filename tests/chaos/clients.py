"""Load on a gateway, and a record of how every answer ended. Clients repeat nothing.

A whole answer is one that a client may take for complete: a JSON body read to its end under a 200, or a stream that has
shown `data: [DONE]` and ended cleanly.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

import aiohttp
import msgspec

from tests.chaos.harness import Customer, Stack
from tests.chaos.plan import Plan

DONE = b"data: [DONE]\n\n"
PAUSE_AFTER_REFUSAL_S = 0.05
PAUSE_AFTER_CUT_S = 0.05


class Ended(Enum):
    """How an answer ended for its client."""

    whole = "whole"
    refused = "refused"
    cut = "cut"
    left = "left"
    odd = "odd"
    """Ended cleanly without being whole: a client could take it for complete."""


@dataclass(slots=True)
class Exchange:
    """One request as its client saw it. Times are of `time.monotonic`."""

    plan: Plan
    customer: Customer
    stream: bool
    sent_s: float
    ended_s: float = 0.0
    ended: Ended = Ended.cut
    status: int = 0
    request_id: str | None = None
    note: str = ""
    got_output: bool = False
    """Whether some of the answer's text has come."""


@dataclass
class Mix:
    """Shares of what clients do; the rest are ordinary requests, half of them streams."""

    streams: float = 0.5
    errors: float = 0.02
    cuts: float = 0.02
    leaves: float = 0.02
    longs: float = 0.03
    long_ms: int = 3000
    unbounded: float = 0.2
    """Requests that name no maximum: elastic holds."""


@dataclass
class Load:
    """`concurrency` clients on a stack, from `start` to `stop`."""

    stack: Stack
    customers: Sequence[tuple[Customer, float]]
    concurrency: int
    seed: int
    mix: Mix = field(default_factory=Mix)
    exchanges: list[Exchange] = field(default_factory=list)
    on_whole: Callable[[Exchange], None] | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stopping: bool = False
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def start(self) -> None:
        """Begin."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._client(place)) for place in range(self.concurrency)]

    async def stop(self) -> None:
        """Let every client finish its request."""
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _client(self, place: int) -> None:
        chance = random.Random(self.seed * 100_003 + place)  # noqa: S311 - load, not a secret
        customers, weights = zip(*self.customers, strict=True)
        await asyncio.sleep(chance.random())
        while not self._stopping:
            customer = chance.choices(customers, weights)[0]
            exchange = await self.ask(customer, chance)
            if exchange.ended is Ended.refused:
                await asyncio.sleep(PAUSE_AFTER_REFUSAL_S)
            elif exchange.ended is Ended.cut:
                await asyncio.sleep(PAUSE_AFTER_CUT_S)

    async def ask(self, customer: Customer, chance: random.Random) -> Exchange:
        """One request, as the mix and chance have it."""
        mix, draw = self.mix, chance.random()
        do = "error" if draw < mix.errors else "cut" if draw < mix.errors + mix.cuts else "ok"
        stream = chance.random() < mix.streams
        chunks = chance.randint(2, 6) if stream else 1
        delay_ms = chance.randint(20, 120)
        if chance.random() < mix.longs:
            delay_ms = mix.long_ms // chunks
        marker = f"{next(self._numbers)}-{secrets.token_hex(6)}"
        plan = Plan(marker, do, delay_ms, chunks, chance.randint(5, 20), chance.randint(1, 16))
        leave = do == "ok" and chance.random() < mix.leaves
        exchange = Exchange(plan, customer, stream, time.monotonic())
        self.exchanges.append(exchange)
        maximum = None if chance.random() < mix.unbounded else chance.randint(plan.output_tokens, 32)
        try:
            await self._send(exchange, maximum, leave)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            exchange.ended, exchange.note = Ended.cut, type(error).__name__
        exchange.ended_s = time.monotonic()
        return exchange

    async def _send(self, exchange: Exchange, maximum: int | None, leave: bool) -> None:
        plan = exchange.plan
        body = msgspec.json.encode(plan.body(stream=exchange.stream, max_tokens=maximum))
        headers = {
            "Authorization": f"Bearer {exchange.customer.key}",
            "Content-Type": "application/json",
            "X-Request-Id": plan.marker,
        }
        url = f"{self.stack.url}/v1/chat/completions"
        if leave and not exchange.stream:
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(plan.delay_ms / 2000),
                    self.stack.session.post(url, data=body, headers=headers) as response,
                ):
                    await response.read()
            exchange.ended = Ended.left
            return
        async with self.stack.session.post(url, data=body, headers=headers) as response:
            exchange.status, exchange.request_id = response.status, response.headers.get("x-request-id")
            if response.status != 200 or not exchange.stream:
                self._judge_json(exchange, await response.read())
                return
            data = bytearray()
            async for chunk in response.content.iter_any():
                data += chunk
                exchange.got_output = exchange.got_output or b"word" in data
                if leave:
                    exchange.ended = Ended.left
                    response.close()
                    return
            exchange.ended = Ended.whole if data.endswith(DONE) else Ended.odd

    @staticmethod
    def _judge_json(exchange: Exchange, body: bytes) -> None:
        answer = msgspec.json.decode(body)
        if exchange.status == 200:
            exchange.got_output = bool(answer.get("choices"))
            exchange.ended = Ended.whole if exchange.got_output else Ended.odd
            return
        exchange.ended, exchange.note = Ended.refused, str(answer["error"].get("code"))
