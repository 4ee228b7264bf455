"""A provider that keeps what it was asked, by marker, and answers as the request's plan says."""

import asyncio
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from tests.chaos.plan import MAX_OUTPUT_TOKENS, Plan, read_plan

# A request that gets no answer is left for as long, which no gateway here waits for.
SILENT_S = 40.0
SSE = {"Content-Type": "text/event-stream"}
JOB_INPUT = 7
JOB_OUTPUT = 5
DONE = b"data: [DONE]\n\n"
# A comment, which is no output; more of them than the sockets on the way take.
PADDING = b": " + b"." * (128 << 10) + b"\n\n"
_MAXIMUM = re.compile(rb'"max_(?:completion_)?tokens": ?(\d+)')


class Upstream:
    """`asked` counts the requests of each marker that reached the provider; with `counts_answers` those alone whose
    answer began, because a gateway may ask for the others again, and those that the gateway has broken off before: a
    client that left meanwhile pays the input. While `failing` is above 0, that share of its requests
    is refused, fails, breaks off or stays without an answer before its head."""

    def __init__(self, *, counts_answers: bool = False) -> None:
        self.asked: Counter[str] = Counter()
        self.broken_off: set[str] = set()
        self.failing = 0.0
        self.failed: Counter[str] = Counter()
        """How often it has failed so, by how."""
        self.counts_answers = counts_answers
        self.jobs: dict[str, bool] = {}
        """Responses in the background, by id, and whether somebody has asked after each; they are done once they may
        be."""
        self.may_end = False
        self.may_answer = asyncio.Event()
        """Whether whole answers may end; cleared, what is asked runs until it is set again."""
        self.may_answer.set()
        self._chance = random.Random(7)  # noqa: S311 - faults, not a secret
        self.url = ""

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Upstream"]:
        """Serve on a free port of this machine."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/spare/v1/chat/completions", self._answer)
        app.router.add_post("/v1/responses", self._begin)
        app.router.add_get("/v1/responses/{id}", self._look)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        plan = _bounded(read_plan(body), body)
        if not self.counts_answers:
            self.asked[plan.marker] += 1
        try:
            return await self._answered(request, body, plan)
        except asyncio.CancelledError:
            self.broken_off.add(plan.marker)
            raise

    async def _answered(self, request: web.Request, body: bytes, plan: Plan) -> web.StreamResponse:
        if self._chance.random() < self.failing:
            return await self._fail(request)
        if plan.do == "error":
            await asyncio.sleep(plan.delay_ms / 1000)
            return web.json_response({"error": {"message": "overloaded", "type": "server_error"}}, status=500)
        if b'"stream":true' in body or b'"stream": true' in body:
            response = web.StreamResponse(headers=SSE)
            with suppress(ConnectionResetError):  # the gateway has left: its client has, or it is dead
                self._count_answer(plan)
                await response.prepare(request)
                await self._stream(request, response, plan)
            return response
        await asyncio.sleep(plan.delay_ms * plan.chunks / 1000)
        await self.may_answer.wait()
        if plan.do == "cut":
            request.transport.abort()
        else:
            self._count_answer(plan)
        message = {"role": "assistant", "content": "word " * plan.output_tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(_completion("chat.completion", [choice], usage=_usage(plan)))

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        """Begin a response in the background; a stream of it never ends."""
        name, streamed = f"resp_{len(self.jobs)}", (await request.json()).get("stream")
        self.jobs[name] = False
        if not streamed:
            return web.json_response(_job(name, done=False))
        response = web.StreamResponse(headers=SSE)
        with suppress(ConnectionResetError):
            await response.prepare(request)
            await response.write(_event({"type": "response.created", "response": _job(name, done=False)}))
            await asyncio.sleep(SILENT_S)
        return response

    async def _look(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        self.jobs[name] = True
        return web.json_response(_job(name, done=self.may_end))

    def _count_answer(self, plan: Plan) -> None:
        if self.counts_answers:
            self.asked[plan.marker] += 1

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        how = self._chance.choices(("429", "500", "503", "cut", "silent"), (8, 6, 8, 6, 1))[0]
        self.failed[how] += 1
        if how == "silent":
            await asyncio.sleep(SILENT_S)
        if how in ("cut", "silent"):
            request.transport.abort()
            return web.Response(status=500)
        headers = {"Retry-After": "1"} if how == "429" else {}
        return web.json_response({"error": {"message": "no"}}, status=int(how), headers=headers)

    async def _stream(self, request: web.Request, response: web.StreamResponse, plan: Plan) -> None:
        for place in range(plan.chunks):
            await asyncio.sleep(plan.delay_ms / 1000)
            choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
            await response.write(_event(_completion("chat.completion.chunk", [choice])))
            if plan.do == "flood":
                await response.write(PADDING)
            if plan.do == "cut" and place == plan.chunks // 2:
                request.transport.abort()
                return
        last = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await response.write(_event(_completion("chat.completion.chunk", [last])))
        await response.write(_event(_completion("chat.completion.chunk", [], usage=_usage(plan))))
        await response.write(DONE)
        await response.write_eof()


def _bounded(plan: Plan, body: bytes) -> Plan:
    """A provider never gives more output than it was asked for."""
    found = _MAXIMUM.search(body)
    most = int(found.group(1)) if found else MAX_OUTPUT_TOKENS
    return replace(plan, output_tokens=min(plan.output_tokens, most))


def _completion(kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "chaos", "choices": choices, **more}


def _job(name: str, *, done: bool) -> dict[str, Any]:
    usage = {"input_tokens": JOB_INPUT, "output_tokens": JOB_OUTPUT, "total_tokens": JOB_INPUT + JOB_OUTPUT}
    status = "completed" if done else "in_progress"
    return {"id": name, "object": "response", "status": status, "output": [], "usage": usage if done else None}


def _usage(plan: Plan) -> dict[str, int]:
    total = plan.input_tokens + plan.output_tokens
    return {"prompt_tokens": plan.input_tokens, "completion_tokens": plan.output_tokens, "total_tokens": total}


def _event(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"
