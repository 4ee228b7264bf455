"""Systems that usage is exported to, as far as they take it: each keeps what it was sent by its own rule of what is the
same. What they are sent is checked against their published OpenAPI documents, of which `lago.json` and `openmeter.json`
are trimmed copies (source and licence stand in them).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import web
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What befalls the next request: it is done and its answer lost; cut off before; answered 500; 429; or 401.
Fault = Literal["lose_answer", "refuse", "fail", "busy", "locked"]
STATUSES = {"fail": 500, "busy": 429, "locked": 401}


def schemas(name: str) -> dict[str, Any]:
    """The trimmed document of a peer."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text("utf-8"))
    return found


class Peer:
    """What both have: faults, and `violations` of their documents, at which tests look in the end. Items in `poison`
    are refused by their ids."""

    name = ""
    key = "secret-of-the-peer"

    def __init__(self) -> None:
        self.document = schemas(self.name)
        self.faults: deque[Fault | None] = deque()
        self.violations: list[str] = []
        self.poison: set[str] = set()
        self.requests = 0
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Any]:
        """Serve on a port of this machine."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._serve)
        server = TestServer(app)
        await server.start_server()
        self.url = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            await server.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        await asyncio.sleep(0)
        fault = self.faults.popleft() if self.faults else None
        if fault == "refuse":
            return self._cut(request)
        if fault in STATUSES:
            return web.Response(status=STATUSES[fault], headers={"Retry-After": "0"}, text="not now")
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            self.violations.append("a wrong key")
        body = json.loads(await request.read())
        for error in Draft202012Validator(self.document.get(request.path, False)).iter_errors(body):
            self.violations.append(f"{request.path} {list(error.absolute_path)}: {error.message}")
        answer = self.take(request, body)
        return self._cut(request) if fault == "lose_answer" else answer

    def _cut(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def take(self, request: web.Request, body: Any) -> web.Response:
        """Take a request."""
        raise NotImplementedError


class FakeLago(Peer):
    """Lago with events in Postgres: a batch is taken whole or not at all, and told by subscription and transaction."""

    name = "lago"

    def __init__(self, plan: str = "metergate") -> None:
        super().__init__()
        self.plan = plan
        self.customers: dict[str, Any] = {}
        self.subscriptions: dict[str, Any] = {}
        self.events: dict[tuple[str, str], Any] = {}

    def take(self, request: web.Request, body: Any) -> web.Response:
        """Take customers, subscriptions and events."""
        if request.path == "/api/v1/customers":
            self.customers[body["customer"]["external_id"]] = body["customer"]
            return web.json_response({"customer": {}})
        if request.path == "/api/v1/subscriptions":
            subscription = body["subscription"]
            if subscription["plan_code"] != self.plan or subscription["external_customer_id"] not in self.customers:
                return web.json_response({"status": 404, "error": "Not Found", "code": "plan_not_found"}, status=404)
            self.subscriptions.setdefault(subscription["external_id"], subscription)
            return web.json_response({"subscription": {}})
        return self._events(body["events"])

    def _events(self, events: list[Any]) -> web.Response:
        errors: dict[str, Any] = {"events": ["too_many_events"]} if len(events) > 100 else {}
        seen = set(self.events)
        for place, event in enumerate(events):
            id_ = (event["external_subscription_id"], event["transaction_id"])
            if event["transaction_id"] in self.poison:
                errors[str(place)] = {"timestamp": ["invalid_format"]}
            elif id_ in seen:
                errors[str(place)] = {"transaction_id": ["value_already_exist"]}
            seen.add(id_)
            if event["external_subscription_id"] not in self.subscriptions:
                self.violations.append(f"{id_} before its subscription")
            if "timestamp" not in event:
                self.violations.append(f"{id_} without a timestamp")
        if errors:
            refusal = {"status": 422, "error": "Unprocessable Entity", "code": "validation_errors"}
            return web.json_response(refusal | {"error_details": errors}, status=422)
        for event in events:
            self.events[event["external_subscription_id"], event["transaction_id"]] = event
        return web.json_response({"events": []})

    @property
    def nano(self) -> int:
        """What it was told was charged, in nano-USD."""
        return int(sum(Decimal(each["precise_total_amount_cents"]) for each in self.events.values()) * 10**7)


class FakeOpenMeter(Peer):
    """OpenMeter: a batch is refused as a whole, without a word of which event; events are told by source and id."""

    name = "openmeter"

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[tuple[str, str], Any] = {}

    def take(self, request: web.Request, body: Any) -> web.Response:
        """Take a batch."""
        if request.content_type != self.document["content_type"]:
            self.violations.append(f"content type {request.content_type}")
        if any(event["id"] in self.poison for event in body):
            return web.json_response({"type": "about:blank", "status": 400, "title": "Bad Request"}, status=400)
        for event in body:
            self.events.setdefault((event["source"], event["id"]), event)
        return web.Response(status=204)

    @property
    def nano(self) -> int:
        """What it was told was charged, in nano-USD."""
        return int(sum(Decimal(each["data"]["charged_usd"]) for each in self.events.values()) * 10**9)
