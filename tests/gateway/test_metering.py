"""What services call, over HTTP, on whole gateways and the real stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import cycle, product
from typing import Any

import pytest

from billing.times import rfc3339
from tests.gateway.conftest import Customer, GatewayOf, chat
from tests.support.metering_service import SERVICE_KEY, Service, ledger, sound, until, with_meters

pytestmark = pytest.mark.slow


@pytest.fixture
async def service(gateway_of: GatewayOf) -> AsyncIterator[Service]:
    """Balances and holds add up after each test."""
    made = Service(await gateway_of(change=with_meters))
    yield made
    await sound(made)


@pytest.fixture
async def customer(service: Service) -> Customer:
    return await service.gateway.customer("5.00")


async def test_a_debit_is_made_once(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d1", "meter": "container.second", "quantity": "2.5"}
    status, first, headers = await service.call("POST", "/debits", asked)
    assert (status, first["charged_usd"], first["meter"]) == (201, "0.00025", "container.second")
    assert "idempotent-replayed" not in headers
    status, again, headers = await service.call("POST", "/debits", asked)
    assert (status, again, headers["idempotent-replayed"]) == (201, first, "true")
    conflict = await service.post("/debits", {**asked, "quantity": 3}, 409)
    assert conflict["error"]["code"] == "idempotency_conflict"
    assert await ledger(service, customer.account_id) == {"d1": 250_000}

    async def money():
        found = await service.balance(customer.account_id)
        return found["balance_usd"], found["held_usd"]

    await until(money, ("4.99975", "0.00"))


async def test_many_at_once_with_one_id_are_one_debit(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d1", "amount_usd": "0.25"}
    answers = await asyncio.gather(*(service.call("POST", "/debits", asked) for _ in range(20)))
    assert {status for status, _, _ in answers} == {201}
    assert len({answer["id"] for _, answer, _ in answers}) == 1
    assert sum("idempotent-replayed" not in headers for _, _, headers in answers) == 1
    assert await ledger(service, customer.account_id) == {"d1": 250_000_000}


async def test_refusals_are_those_of_the_proxy(service):
    poor = await service.gateway.customer("0")
    async with poor.post(body=chat()) as answer:
        proxys = (await answer.json())["error"]
        assert answer.status == 402
    asked = {"account_id": poor.account_id, "amount_usd": "1.00"}
    for path, body in (
        ("/check", asked),
        ("/debits", {**asked, "event_id": "d"}),
        ("/holds", {**asked, "event_id": "h"}),
    ):
        status, found, headers = await service.call("POST", path, body)
        error = found["error"]
        assert (status, error["code"], headers["x-should-retry"]) == (402, "billing_required", "false")
        assert error.keys() == proxys.keys()
        assert {**error["billing"], "required_usd": ""} == {**proxys["billing"], "required_usd": ""}
        assert error["billing"]["required_usd"] == "1.00"
        assert error["message"] == proxys["message"].split(" Or ask")[0]


async def test_quotas_count_by_feature(service):
    quotas = [{"window": "day", "metric": "cost", "limit": "1.00", "feature": "container"}]
    customer = await service.gateway.customer("5.00")
    await service.gateway.admin("PUT", f"/accounts/{customer.account_id}/quotas", {"quotas": quotas})
    asked = {"account_id": customer.account_id, "amount_usd": "0.75", "feature": "container"}
    await service.post("/debits", {**asked, "event_id": "1"}, 201)
    refused = await service.post("/debits", {**asked, "event_id": "2"}, 429)
    assert refused["error"]["code"] in ("quota_exceeded", "capacity_held")
    await service.post("/debits", {**asked, "event_id": "3", "feature": "other"}, 201)
    checked = await service.post("/check", {**asked, "amount_usd": "0.25"})
    assert (checked["allowed"], checked["required_usd"]) == (True, "0.25")
    # What was refused counts nowhere, and its id is free.
    await service.post("/debits", {**asked, "event_id": "2", "amount_usd": "0.25"}, 201)


async def test_a_suspended_account_spends_nothing(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d", "amount_usd": "1.00"}
    await service.post("/debits", asked, 201)
    await service.gateway.admin("PATCH", f"/accounts/{customer.account_id}", {"status": "suspended"})
    refused = await service.post("/debits", {**asked, "event_id": "e"}, 402)
    assert refused["error"]["billing"]["status"] == "suspended"
    await service.post("/check", {"account_id": customer.account_id, "amount_usd": "1.00"}, 402)
    await service.post("/debits", asked, 201)  # the first answer stands
    used = {"account_id": customer.account_id, "event_id": "u", "amount_usd": "1.00"}
    await service.post("/usage", used)  # what was used was used


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ({}, "invalid_request_error", "amount_usd"),
        ({"meter": "nothing", "quantity": 1}, "model_not_priced", "meter"),
        ({"meter": "bytes"}, "invalid_request_error", "quantity"),
        ({"quantity": 1}, "invalid_request_error", "meter"),
        ({"meter": "bytes", "quantity": 1.5}, "invalid_request_error", "quantity"),
        ({"meter": "bytes", "quantity": "1.0001"}, "invalid_request_error", "quantity"),
        ({"meter": "bytes", "quantity": -1}, "invalid_request_error", "quantity"),
        ({"amount_usd": 1.5}, "invalid_request_error", "amount_usd"),
        ({"amount_usd": "0"}, "invalid_request_error", "amount_usd"),
        ({"amount_usd": "1", "event_id": "a b"}, "invalid_request_error", "event_id"),
        ({"amount_usd": "1", "meter": "bytes", "model": "gpt-4o"}, "invalid_request_error", "meter"),
        ({"model": "gpt-4o", "input_tokens": 5}, "invalid_request_error", "provider"),
        ({"amount_usd": "1", "nonsense": 1}, "invalid_request_error", "nonsense"),
    ],
)
async def test_what_is_wrong_is_named(service, wrong, code, param):
    customer = await service.gateway.customer("5.00")
    asked = {"account_id": customer.account_id, "event_id": "d", **wrong}
    error = (await service.post("/debits", asked, 400))["error"]
    assert (error["code"], error["param"]) == (code, param)


async def test_who_may_call(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d", "amount_usd": "1.00"}
    for headers in ({"X-API-Key": "wrong"}, {"X-API-Key": customer.key}):
        assert (await service.call("POST", "/debits", asked, **headers))[0] == 401
    assert (await service.call("POST", "/debits", asked, **{"X-Service-Name": "a b"}))[0] == 400
    unknown = await service.post("/debits", {**asked, "account_id": "acc_unknown"}, 404)
    assert unknown["error"]["code"] == "not_found"


async def test_models_are_priced_by_their_tokens(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d", "provider": "openai", "model": "gpt-4o-mini"}
    made = await service.post("/debits", {**asked, "input_tokens": 1_000_000, "output_tokens": 1_000}, 201)
    assert made["charged_usd"] == "0.1506"
    (event,) = await customer.events()
    assert (event["input_tokens"], event["output_tokens"], event["feature"]) == (1_000_000, 1_000, "service")
    assert event["key_id"] == "service:aura"
    async with customer.get(f"/api/account/usage/events/{made['id']}") as answer:
        assert len((await answer.json())["lines"]) == 2


async def test_the_lines_of_a_meter_add_up(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d", "meter": "bytes", "quantity": 1_073_741_824}
    made = await service.post("/debits", asked, 201)
    async with customer.get(f"/api/account/usage/events/{made['id']}") as answer:
        event = await answer.json()
    (line,) = event["lines"]
    assert (event["charged_usd"], event["units"]) == ("0.096636765", {"units": 1_073_741_824})
    assert (line["class"], line["quantity"], line["price_usd_per_million"]) == ("million", 1_073_741_824, "0.00009")


def at(**back: float) -> str:
    return rfc3339(datetime.now(UTC) - timedelta(**back))


async def test_usage_of_several_events_has_a_result_for_each(service, customer):
    one = {"account_id": customer.account_id, "event_id": "1", "amount_usd": "1.00"}
    events = [
        one,
        {**one, "event_id": "2", "meter": "bytes", "amount_usd": "0.50", "quantity": 7},
        one,
        {**one, "amount_usd": "2.00"},
        {**one, "event_id": "3", "account_id": "acc_unknown"},
        {**one, "event_id": "4", "time": at(days=34, hours=23)},
        {**one, "event_id": "5", "time": at(days=35, minutes=1)},
        {**one, "event_id": "6", "time": at(minutes=-4)},
        {**one, "event_id": "7", "time": at(minutes=-6)},
        {"event_id": "8"},
        {**one, "event_id": "9", "tags": {"a": "b" * 70_000}},
        7,
    ]
    found = await service.post("/usage", {"events": events})
    assert (found["recorded"], found["replayed"], found["refused"]) == (4, 1, 7)
    statuses = [each["status"] for each in found["data"]]
    assert (
        statuses
        == ["recorded", "recorded", "replayed"] + ["refused"] * 2 + ["recorded", "refused"] * 2 + ["refused"] * 3
    )
    codes = [each["error"]["code"] for each in found["data"] if each["error"]]
    assert codes == ["idempotency_conflict", "not_found"] + ["invalid_request_error"] * 5
    charged = await ledger(service, customer.account_id)
    assert charged == {"1": 10**9, "2": 5 * 10**8, "4": 10**9, "6": 10**9}
    again = await service.post("/usage", {"events": events})
    assert (again["recorded"], again["replayed"]) == (0, 5)
    assert await ledger(service, customer.account_id) == charged


async def test_late_usage_counts_on_its_day_alone(service):
    quotas = [
        {"window": window, "metric": "cost", "limit": "3.00", "feature": "service"} for window in ("minute", "total")
    ]
    customer = await service.gateway.customer("50.00")
    await service.gateway.admin("PUT", f"/accounts/{customer.account_id}/quotas", {"quotas": quotas})
    used = {"account_id": customer.account_id, "event_id": "late", "amount_usd": "2.00", "time": at(days=20)}
    await service.post("/usage", used)

    async def balance():
        return str((await service.balance(customer.account_id))["balance_usd"])

    await until(balance, "48.00")
    (event,) = await customer.events()
    assert event["created_at"] == used["time"]
    refused = await service.post("/check", {"account_id": customer.account_id, "amount_usd": "1.50"}, 429)
    assert refused["error"]["quota"]["window"] == "total"  # not that of this minute
    await service.post("/check", {"account_id": customer.account_id, "amount_usd": "1.00"})


CLOUD = {"specversion": "1.0", "source": "/containers", "id": "1", "type": "container.second"}


async def cloud(service: Service, kind: str, body: Any) -> tuple[int, Any]:
    status, answer, _ = await service.call(
        "POST", "/usage", body, **{"Content-Type": f"application/cloudevents{kind}+json"}
    )
    return status, answer


async def test_cloud_events(service, customer):
    event = {
        **CLOUD,
        "subject": customer.account_id,
        "data": {"quantity": 10, "ours": "let through"},
        "traceparent": "x",
    }
    status, found = await cloud(service, "", event)
    assert (status, found["recorded"], found["data"][0]["event_id"]) == (200, 1, "/containers 1")
    assert found["data"][0]["debit"]["charged_usd"] == "0.001"
    batch = [
        event,
        {**event, "data": "10"},
        {**event, "source": "/other"},
        {**event, "id": "2", "data": "1.5", "time": at(hours=1)},
        {**event, "id": "3", "data": 1.5},
        {**event, "id": "4", "specversion": "0.3"},
        {**event, "id": "5", "data": None},
        {**event, "id": "6", "type": "unknown"},
        {**event, "id": "7 8"},
        {**event, "id": "9", "data": {"amount_usd": "0.10", "feature": "container", "tags": {"a": "b"}}},
    ]
    status, found = await cloud(service, "-batch", batch)
    statuses = [each["status"] for each in found["data"]]
    wanted = ["replayed", "replayed", "recorded", "recorded"] + ["refused"] * 5 + ["recorded"]
    assert (status, statuses) == (200, wanted)
    assert found["data"][7]["error"]["code"] == "model_not_priced"
    charged = await ledger(service, customer.account_id)
    assert charged == {"/containers 1": 10**6, "/other 1": 10**6, "/containers 2": 150_000, "/containers 9": 10**8}
    binary = {f"CE-{name}": value for name, value in {**CLOUD, "id": "%31", "subject": customer.account_id}.items()}
    status, found, _ = await service.call("POST", "/usage", event["data"], **binary)
    assert (status, found["replayed"]) == (200, 1)
    status, found, _ = await service.call("POST", "/usage", event["data"], **{**binary, "CE-id": "\udcff"})
    assert (status, found["error"]["code"]) == (400, "invalid_request_error")
    body = {"events": [], "account_id": customer.account_id, "event_id": "x", "amount_usd": "1"}
    assert "account_id" in (await service.post("/usage", body, 400))["error"]["message"]  # it would be left out
    status, found = await cloud(service, "", {**event, "id": "10", "subject": "acc_unknown"})
    assert (status, found["error"]["code"]) == (404, "not_found")
    status, _ = await cloud(service, "-batch", [event] * 1_001)
    assert status == 400
    status, _, _ = await service.call("POST", "/usage", event, **{"Content-Type": "text/plain"})
    assert status == 400


BAD_TEXTS = (b"\\u0000", b"\0", b"\\ud800", b"\\udfff", b"\xff", b"\xed\xa0\x80")


async def raw(service: Service, body: bytes, content_type: str = "application/json", **headers: str) -> Any:
    """Status and body of usage that is sent as it is."""
    sent = {"X-API-Key": SERVICE_KEY, "X-Service-Name": "aura", "Content-Type": content_type, **headers}
    at = service.gateway.url + "/api/service/usage"
    async with service.gateway.session.post(at, data=body, headers=sent) as answer:
        return answer.status, await answer.json()


async def test_a_bad_byte_spoils_one_event_of_a_thousand(service):
    """Wherever it stands, plain or as CloudEvents; all others are charged once."""
    places = product(("event_id", "tag", "account_id", "unknown field"), (False, True))
    for (place, cloud_batch), text in zip(places, cycle(BAD_TEXTS)):
        customer = await service.gateway.customer("5.00")
        size = 1_000 if place == "tag" else 4
        events = [event_in_bytes(customer.account_id, str(each), cloud=cloud_batch) for each in range(size)]
        at = size // 2
        events[at] = spoiled(events[at], place, text)
        body = b"[" + b",".join(events) + b"]"
        kind = "application/cloudevents-batch+json" if cloud_batch else "application/json"
        status, found = await raw(service, body if cloud_batch else b'{"events": ' + body + b"}", kind)
        assert (status, found["recorded"], found["refused"]) == (200, size - 1, 1), (place, text, found)
        refused = found["data"][at]
        assert (refused["status"], refused["error"]["code"]) == ("refused", "invalid_request_error")
        assert len(await ledger(service, customer.account_id)) == size - 1


def event_in_bytes(account_id: str, event_id: str, *, cloud: bool) -> bytes:
    plain = {"account_id": account_id, "event_id": event_id, "amount_usd": "0.001", "tags": {"a": "tag"}}
    data = {"amount_usd": "0.001", "tags": {"a": "tag"}}
    event = {**CLOUD, "id": event_id, "subject": account_id, "data": data}
    return json.dumps(event if cloud else plain).encode()


def spoiled(event: bytes, place: str, text: bytes) -> bytes:
    """An event with a bad text in one place."""
    fields = json.loads(event)
    is_cloud = "specversion" in fields
    if place == "tag":
        return event.replace(b'"tag"', b'"t' + text + b'"')
    if place == "unknown field":
        return event[:-1] + b', "un' + text + b'": 1}'
    name = {"event_id": "id", "account_id": "subject"}[place] if is_cloud else place
    return event.replace(json.dumps(fields[name]).encode(), b'"x' + text + b'"', 1)


async def test_a_bad_byte_in_an_event_alone_is_400(service, customer):
    """Structured, binary and plain: never the gateway's fault."""
    for text in BAD_TEXTS:
        for cloud_event, kind in ((False, "application/json"), (True, "application/cloudevents+json")):
            for place in ("event_id", "tag", "account_id", "unknown field"):
                event = spoiled(event_in_bytes(customer.account_id, "1", cloud=cloud_event), place, text)
                status, found = await raw(service, event, kind)
                assert (status, found["error"]["code"]) == (400, "invalid_request_error"), (text, place, kind)
        binary = {f"CE-{name}": value for name, value in {**CLOUD, "subject": customer.account_id}.items()}
        status, found = await raw(service, b'{"quantity": 1, "tags": {"a": "' + text + b'"}}', **binary)
        assert (status, found["error"]["code"]) == (400, "invalid_request_error"), text
        for wrong in ("%00", "%FF", "%ED%A0%80"):
            status, found = await raw(service, b'{"quantity": 1}', **{**binary, "CE-subject": f"acc{wrong}"})
            assert (status, found["error"]["code"]) == (400, "invalid_request_error"), wrong
    assert await ledger(service, customer.account_id) == {}


async def test_any_number_may_be_under_way(service):
    """Unlike requests, which the plan bounds."""
    customer = await service.gateway.customer("5.00", account={"plan": "free"})
    plan = service.gateway.runtime.follower.plans["free"]
    assert plan.max_parallel_requests is not None
    asked = {"account_id": customer.account_id, "amount_usd": "0.01"}
    work = (service.call("POST", "/debits", {**asked, "event_id": str(number)}) for number in range(40))
    assert {status for status, _, _ in await asyncio.gather(*work)} == {201}


async def test_tokens_of_a_meter_are_not_free(service, customer):
    asked = {"account_id": customer.account_id, "event_id": "d", "provider": "meter", "model": "container.second"}
    refused = await service.post("/debits", {**asked, "input_tokens": 1_000_000}, 400)
    assert refused["error"]["param"] == "provider"
