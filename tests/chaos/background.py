"""Responses in the background under kills and freezes: each that a client was told of is charged once, exactly.

`python -m tests.chaos background` strikes `--times` times while clients begin responses, some streamed, some of those
left by their clients. The provider finishes each after a time of its own, with a usage of its own, and does not answer
one question in ten. A request without an answer may have begun one, which nobody can read: that costs nothing.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from tests.chaos.faults import KILLS, OTHERS
from tests.chaos.harness import Customer, Stack, running
from tests.chaos.plan import INPUT_NANO, MODEL, OUTPUT_NANO
from tests.chaos.upstream import JOB_INPUT, SSE, Upstream
from tests.chaos.waiting import until

QUICK = {"background_poll_s": 0.1, "background_lease_s": 1.0}
CLIENTS = 12
# Shares: of responses that are streamed, of streams whose client leaves, of questions that are not answered.
STREAMED, LEFT, SILENT = 0.4, 0.4, 0.1
MOST_OUTPUT = 40
STRIKES = (
    *KILLS,
    *(fault for fault in OTHERS if "frozen" in fault.name or fault.name.startswith(("SIGTERM", "an account's"))),
)
ENDED_S = 120.0
OPEN = "SELECT count(*) FROM background_jobs WHERE done_at IS NULL"
JOBS = "SELECT request_id, later_id FROM background_jobs"
DEBITS = "SELECT request_id, charged_nano FROM usage_events WHERE charged_nano > 0"


@dataclass(slots=True)
class _Work:
    """What the provider works on: for whom, until when by the monotonic clock, and how much it writes."""

    mark: str
    ends_s: float
    output: int


class Worker(Upstream):
    """A provider of responses in the background."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance, self.works = chance, dict[str, _Work]()

    def _job(self, name: str) -> dict[str, Any]:
        work = self.works[name]
        done = time.monotonic() >= work.ends_s
        total = JOB_INPUT + work.output
        usage = {"input_tokens": JOB_INPUT, "output_tokens": work.output, "total_tokens": total} if done else None
        return {
            **{"id": name, "object": "response", "status": "completed" if done else "in_progress"},
            **{"output": [], "usage": usage},
        }

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        asked, name = await request.json(), f"resp_{len(self.works)}"
        ends_s = time.monotonic() + self.chance.uniform(0.1, 4.0)
        self.works[name] = _Work(asked["input"], ends_s, 1 + len(self.works) % MOST_OUTPUT)
        await asyncio.sleep(self.chance.choice((0, 0, 0.05, 0.3)))
        if not asked.get("stream"):
            return web.json_response(self._job(name))
        response = web.StreamResponse(headers=SSE)
        with suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write(_event({"type": "response.created", "response": self._job(name)}))
            while (left_s := ends_s - time.monotonic()) > 0:
                await asyncio.sleep(left_s)
            await response.write(_event({"type": "response.output_text.delta", "delta": "word "}))
            await response.write(_event({"type": "response.completed", "response": self._job(name)}))
            await response.write_eof()
        return response

    async def _look(self, request: web.Request) -> web.Response:
        if self.chance.random() < SILENT:
            return web.json_response({"error": {"message": "overloaded"}}, status=503)
        return web.json_response(self._job(request.match_info["id"]))


def _event(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


@dataclass(slots=True)
class _Clients:
    """Clients that begin responses until they are `stopped`; `told` are status and request id, by mark."""

    stack: Stack
    chance: random.Random
    stopped: bool = False
    told: dict[str, tuple[int, str | None]] = field(default_factory=dict)

    async def run(self, number: int, customer: Customer) -> None:
        """Begin one after the other."""
        count = 0
        while not self.stopped:
            count += 1
            await self._begin(f"{number}-{count}", customer)
            await asyncio.sleep(self.chance.uniform(0.02, 0.3))

    async def _begin(self, mark: str, customer: Customer) -> None:
        streamed = self.chance.random() < STREAMED
        body = {"model": MODEL, "input": mark, "max_output_tokens": 50, "background": True, "stream": streamed}
        headers, url = {"Authorization": f"Bearer {customer.key}"}, f"{self.stack.url}/v1/responses"
        self.told[mark] = 0, None
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with self.stack.session.post(url, json=body, headers=headers) as answer:
                told = answer.status, answer.headers.get("x-request-id")
                if streamed and self.chance.random() < LEFT:
                    await answer.content.readline()
                else:
                    await answer.read()
                self.told[mark] = told


async def background(*, times: int, seed: int, keep: bool) -> bool:
    """Run and print; whether each response was charged once, exactly."""
    chance = random.Random(seed)  # noqa: S311 - faults and load, not a secret
    worker = Worker(chance)
    async with running(workers=2, defaults=QUICK, keep=keep, upstream=worker) as stack:
        customers = [await stack.customer("50.00") for _ in range(3)]
        clients = _Clients(stack, chance)
        tasks = [asyncio.create_task(clients.run(each, customers[each % 3])) for each in range(CLIENTS)]
        for number in range(times):
            await asyncio.sleep(chance.uniform(2.0, 4.0))
            fault = STRIKES[number % len(STRIKES)] if times >= len(STRIKES) else chance.choice(STRIKES)
            print(f"{fault.name} (after {len(clients.told)} requests)", flush=True)
            await fault.strike(stack, chance)
            await asyncio.sleep(6.0)
        clients.stopped = True
        await asyncio.gather(*tasks)
        found = await _found(stack, clients, worker)
    print(*(f"{count:>6} {name}" for name, count in sorted(found.items())), sep="\n")
    return not any(name.startswith("WRONG") for name in found)


async def _found(stack: Stack, clients: _Clients, worker: Worker) -> Counter[str]:
    """What became of all requests, once all responses are done and all debits written."""
    async with stack.runtime() as runtime:
        database = runtime.database

        async def all_done() -> bool:
            return not await database.value(OPEN)

        await until(all_done, "all responses are done", ENDED_S)
        await stack.stop_gateway()
        later = {row["request_id"]: row["later_id"] for row in await database.rows(JOBS)}
        debits: dict[str, list[int]] = {}
        for row in await database.rows(DEBITS):
            debits.setdefault(row["request_id"], []).append(row["charged_nano"])
    costs = {work.mark: JOB_INPUT * INPUT_NANO + work.output * OUTPUT_NANO for work in worker.works.values()}
    found: Counter[str] = Counter()
    for mark, (status, request_id) in clients.told.items():
        ids = () if request_id is None else (request_id, later.get(request_id, ""))
        charged = [amount for each in ids for amount in debits.get(each, ())]
        if status == web.HTTPOk.status_code:
            right = charged == [costs[mark]]
            found["exact" if right else f"WRONG: {mark} cost {charged}, not {costs[mark]}"] += 1
        elif charged:
            found[f"WRONG: {mark} was answered {status} and cost {charged}"] += 1
        else:
            found[f"free, answered {status}" if status else "free, no answer"] += 1
    return found
