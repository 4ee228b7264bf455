"""The OpenAPI document of routes. That it is valid, and of the routes that are served, is seen where all of them are:
tests/gateway/endpoints/test_openapi.py."""

import asyncio
import json
import re
import socket

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator, FormatChecker

from billing.api.application import ROUTES
from billing.api.openapi import document
from billing.api.operation import Access, Operation
from billing.api.operations import OPERATIONS
from billing.api.route import Route

pytestmark = pytest.mark.slow


async def test_the_billing_api_describes_itself(api):
    """As it is in a command's own process, without the gateway's endpoints."""
    answer = await api.call("GET", "/api/openapi.json")
    assert (answer.status, answer.json["openapi"]) == (200, "3.1.0")
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(answer.json)))
    assert used == set(answer.json["components"]["schemas"])
    described = {(method.upper(), path) for path, methods in answer.json["paths"].items() for method in methods}
    assert described == {(each.method, each.path) for each in OPERATIONS} | {
        ("GET", "/api/openapi.json"),
        ("GET", "/api/docs"),
    }


async def test_little_of_it_waits_for_a_client_that_takes_none_of_it(api):
    path = "/api/openapi.json"
    server = api.client.server
    assert isinstance(server, TestServer)
    assert server.handler is not None
    whole = await api.client.get(path)
    size = len(await whole.read())
    assert size > 500_000
    assert whole.headers["Content-Length"] == str(size)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", server.port))
        async with asyncio.timeout(10):
            while len(server.handler.connections) < 2:
                await asyncio.sleep(0.01)
        for each in server.handler.connections:
            each.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        await loop.sock_sendall(slow, f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        sending = []
        async with asyncio.timeout(10):
            while not sending:
                await asyncio.sleep(0.01)
                sending = [
                    size
                    for each in server.handler.connections
                    if each.transport is not None and (size := each.transport.get_write_buffer_size())
                ]
        assert max(sending) < 300_000


def test_a_query_string_is_described_by_its_parameters():
    api = msgspec.json.decode(document(ROUTES))
    parameters = {each["name"]: each for each in api["paths"]["/api/account/usage/events"]["get"]["parameters"]}
    filters = {
        "key_id",
        "user_id",
        "model",
        "provider",
        "endpoint",
        "status",
        "tag",
        "estimated",
        "end_user",
        "min_latency_ms",
        "order",
        "session",
        "tool",
    }
    assert set(parameters) == {"limit", "cursor", "since", "until", *filters}
    assert parameters["limit"]["schema"]["maximum"] == 1000
    assert parameters["limit"]["schema"]["default"] == 50
    assert not any(each["required"] for each in parameters.values())
    assert "EventQuery" not in api["components"]["schemas"]


def test_two_routes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="one name"):
        document([*ROUTES, ROUTES[0]])


def test_errors_follow_from_what_a_route_asks_for():
    async def look(call):
        """Look. And again."""

    declared = Operation(
        method="PUT",
        path="/x/{id}",
        answer=None,
        status=204,
        who=Access.key,
        scope="a:b",
        body=dict[str, str],
        errors=(409,),
    )
    operation = msgspec.json.decode(document([Route(declared, look)]))["paths"]["/x/{id}"]["put"]
    statuses = ["204", "400", "401", "403", "404", "409", "413", "429", "500", "503"]
    assert list(operation["responses"]) == statuses
    assert (operation["summary"], operation["description"]) == ("Look", "And again.")
    assert operation["security"] == [{"bearer": []}, {"x-api-key": []}, {"x-goog-api-key": []}, {"api-key": []}]


def test_every_example_is_what_its_schema_describes():
    api = msgspec.json.decode(document(ROUTES))
    checked, without = 0, list[str]()
    for operation in (each for methods in api["paths"].values() for each in methods.values()):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for content in [each["content"] for each in (*bodies, *operation["responses"].values()) if "content" in each]:
            for media, each in content.items():
                if "example" in each:
                    schema = {**each["schema"], "components": api["components"]}
                    Draft202012Validator(schema, format_checker=FormatChecker()).validate(each["example"])
                    checked += 1
                else:
                    without.append(media)
    assert checked > 100
    assert "application/json" not in set(without)


async def test_who_wants_to_read_it_is_led_to_the_reference(api):
    async with api.client.get("/api/docs", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "../docs/reference")


async def test_no_answer_may_be_kept_framed_or_sniffed(api):
    for path in ("/api/ping", "/api/account/balance", "/api/nothing"):
        answer = await api.call("GET", path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Cache-Control"] == "no-store", path
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
