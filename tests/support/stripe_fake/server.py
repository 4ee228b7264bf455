"""The fake as a server: keys, versions, idempotency and faults, around the endpoints."""

import asyncio
import hashlib
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.test_utils import TestServer
from stripe._api_version import _ApiVersion

from tests.support.stripe_fake.endpoints import Endpoints
from tests.support.stripe_fake.forms import BadParams, check, read_form
from tests.support.stripe_fake.pages import Pages
from tests.support.stripe_fake.payments import Payments
from tests.support.stripe_fake.routes import Routes
from tests.support.stripe_fake.state import DAY_S, Object, Refused, State
from tests.support.stripe_fake.subscriptions import Subscriptions

# What befalls the next call: it is done and its answer lost; not even begun; answered 500, which is kept for its key;
# 429; or it is never answered.
Fault = Literal["lose_answer", "refuse", "fail", "busy", "hang"]
WEBHOOK_SECRET = "whsec_fake"
_RANDOM_KEY = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|stripe-python-retry-.*")


class FakeStripe:
    """Stripe, as far as a payment provider needs it. `violations` are calls that the real one, or our own rules, would
    not have: tests end by looking at them. `calls` are the methods and paths that were called."""

    def __init__(self, api_key: str = "sk_test_fake", secret: str = WEBHOOK_SECRET) -> None:
        self.api_key, self.secret = api_key, secret
        self.state = State(livemode="_live_" in api_key)
        self.payments = Payments(self.state)
        self.subscriptions = Subscriptions(self.state, self.payments)
        self.pages = Pages(self.state, self.payments, self.subscriptions)
        self.routes = Routes(self.state, self.payments, self.subscriptions, self.pages, Endpoints(self.state, secret))
        self.faults: deque[Fault | None] = deque()
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.url = ""
        self._answers: dict[str, tuple[int, bytes, int, bytes]] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeStripe"]:
        """Serve on a port of this machine."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        server = TestServer(app)
        await server.start_server()
        self.url = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            await server.close()

    def count(self, kind: str) -> int:
        """Return how many objects of a kind there are."""
        return len(self.state.all(kind))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(f"{request.method} {request.path}")
        fault = self.faults.popleft() if self.faults else None
        if fault == "refuse":
            return self._cut(request)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "busy":
            return web.json_response({"error": {"type": "api_error", "message": "Too many requests"}}, status=429)
        text = await request.text()
        status, body, replayed = self._once(request, text, fail=fault == "fail")
        if fault == "lose_answer":
            return self._cut(request)
        headers = {"request-id": f"req_{len(self.calls)}"} | ({"Idempotent-Replayed": "true"} if replayed else {})
        return web.Response(status=status, body=body, content_type="application/json", headers=headers)

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _once(self, request: web.Request, text: str, *, fail: bool) -> tuple[int, bytes, bool]:
        """Return the answer of a call: the first one again for a key that was used within a day, whatever it was."""
        key = request.headers.get("Idempotency-Key")
        if request.method == "GET" or key is None:
            if request.method != "GET":
                self.violations.append(f"{request.method} {request.path} without an idempotency key")
            return (*self._answer(request, text, fail=fail), False)
        if _RANDOM_KEY.fullmatch(key):
            self.violations.append(f"{request.method} {request.path} under a key that the SDK made: {key}")
        digest = hashlib.sha256(f"{request.method} {request.path} {text}".encode()).digest()
        known = self._answers.get(key)
        if known is not None and known[2] > self.state.now - DAY_S:
            if known[3] != digest:
                message = "Keys for idempotent requests can only be used with the same parameters."
                return 400, _body({"type": "idempotency_error", "message": message}), False
            return known[0], known[1], True
        status, body = self._answer(request, text, fail=fail)
        if status != 401:
            self._answers[key] = (status, body, self.state.now, digest)
        return status, body, False

    def _answer(self, request: web.Request, text: str, *, fail: bool) -> tuple[int, bytes]:
        if request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return 401, _body({"type": "invalid_request_error", "message": "Invalid API Key provided: sk_****"})
        if request.headers.get("Stripe-Version") != _ApiVersion.CURRENT:
            self.violations.append(f"version {request.headers.get('Stripe-Version')}")
        if fail:
            return 500, _body({"type": "api_error", "message": "An unknown error occurred"})
        try:
            return 200, json.dumps(self._run(request, text)).encode()
        except BadParams as error:
            self.violations.append(f"{request.method} {request.path}: {error}")
            return 400, _body({"type": "invalid_request_error", "message": str(error), "param": error.param})
        except Refused as refused:
            return refused.status, _body(refused.error)

    def _run(self, request: web.Request, text: str) -> Object:
        for endpoint in self.routes.table:
            match = endpoint.path.fullmatch(request.path)
            if match is not None and endpoint.method == request.method:
                source = request.query_string if request.method in ("GET", "DELETE") and not text else text
                asked: dict[str, Any] = check(read_form(parse_qsl(source, keep_blank_values=True)), endpoint.shape)
                found = endpoint.run(*match.groups(), asked)
                return self.routes.expanded(found, asked.get("expand", []))
        self.violations.append(f"{request.method} {request.path}: no such endpoint in the fake")
        raise Refused(404, f"Unrecognized request URL ({request.method}: {request.path}).")


def _body(error: dict[str, Any]) -> bytes:
    return json.dumps({"error": error}).encode()
