"""What is kept of requests through a whole gateway: refusals to be looked up, and a line of the log for each."""

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.gateway.conftest import Gateway, chat
from tests.support.clients import leave, noticed

WAIT_S = 60.0


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in path.read_text().splitlines()]


async def lines_of(path: Path, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + WAIT_S
    while len(lines := read(path)) < count:
        assert time.monotonic() < deadline, lines
        await asyncio.sleep(0.02)
    return lines


async def refusals(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    await gateway.runtime.refused.flush()
    found = await gateway.admin("GET", f"/refusals{query}")
    assert found["next_cursor"] is None
    return list(found["data"])


async def test_a_refusal_can_be_looked_up(gateway):
    customer = await gateway.customer(quotas=[{"window": "total", "metric": "requests", "limit": 1}])
    poor = await gateway.customer("0")
    for each in (customer, customer, poor):
        async with each.post(body=chat()) as answer:
            await answer.read()
            request_id = answer.headers["x-request-id"]
    (exhausted,) = await refusals(gateway, f"?key_id={customer.key_id}")
    assert (exhausted["status"], exhausted["code"], exhausted["model"]) == (429, "quota_exceeded", "demo")
    assert exhausted["account_id"] == customer.account_id
    assert exhausted["details"]["quota"]["metric"] == "requests"
    (unpaid,) = await refusals(gateway, f"?account_id={poor.account_id}")
    assert (unpaid["id"], unpaid["code"]) == (request_id, "billing_required")
    assert unpaid["details"]["billing"]["balance_usd"] == "0.00"
    assert await gateway.admin("GET", f"/refusals/{request_id}") == unpaid
    await gateway.admin("GET", "/refusals/nothing", status=404)
    assert await refusals(gateway, "?key_id=a&account_id=b") == []
    assert {each["id"] for each in await refusals(gateway)} == {exhausted["id"], unpaid["id"]}
    text = json.dumps(await refusals(gateway))
    assert customer.key not in text
    assert poor.key not in text


async def test_what_a_provider_has_refused_can_be_looked_up_without_its_words(make_gateway, upstream):
    async def serve(request):
        body = await request.json()
        if body["messages"][0]["content"] == "no":
            return web.json_response({"error": {"message": "No."}}, status=400)
        return web.Response(text="<html>")

    gateway = await make_gateway(await upstream(serve))
    customer = await gateway.customer()
    ids = []
    for content, status in (("no", 400), ("html", 502)):
        async with customer.post(body=chat(content, model="gpt-4o-mini")) as answer:
            assert answer.status == status
            ids.append(answer.headers["x-request-id"])
    broken, passed_on = await refusals(gateway)
    assert (broken["code"], broken["id"]) == ("upstream_error", ids[1])
    assert (passed_on["code"], passed_on["status"], passed_on["id"]) == ("provider_refused", 400, ids[0])
    assert passed_on["message"] == "The provider openai answered HTTP 400, which was passed on. Nothing was charged."
    assert passed_on["details"] == {"provider": "openai", "provider_model": "gpt-4o-mini", "attempts": 1}
    assert "No." not in str(passed_on)


async def test_the_log_has_a_line_for_each_request(make_gateway, tmp_path):
    path = tmp_path / "requests.jsonl"
    gateway = await make_gateway(change=lambda settings: replace(settings, request_log=str(path)))
    customer = await gateway.customer()
    ids = []
    for body in (chat("My secret words."), chat("More of them.", stream=True), chat(model="unknown")):
        async with customer.post(body=body) as answer:
            await answer.read()
            ids.append(answer.headers["x-request-id"])
    async with gateway.session.post(f"{gateway.url}/v1/chat/completions", json=chat()) as answer:
        ids.append(answer.headers["x-request-id"])
    lines = await lines_of(path, 4)
    assert [each["request_id"] for each in lines] == ids
    assert [(each["status"], each["code"]) for each in lines] == [
        (200, None),
        (200, None),
        (404, "model_not_found"),
        (401, "invalid_api_key"),
    ]
    assert [each["provider"] for each in lines] == ["local", "local", None, None]
    assert [each["stream"] for each in lines] == [False, True, False, None]
    assert [each["key_id"] for each in lines] == [customer.key_id] * 3 + [None]
    events = {each["id"]: each for each in await customer.events()}
    for each in lines[:2]:
        event = events[each["request_id"]]
        assert {name: each[name] for name in ("input_tokens", "output_tokens", "charge_usd", "charged_usd")} == {
            name: event[name] for name in ("input_tokens", "output_tokens", "charge_usd", "charged_usd")
        }
        assert each["input_tokens"] > 0
        assert each["key_prefix"] == customer.key[:10]
    text = json.dumps(lines)
    assert "secret words" not in text
    assert customer.key not in text


async def test_a_request_whose_client_leaves_has_its_line_once_it_is_settled(make_gateway, upstream, tmp_path):
    reached, left = asyncio.Event(), asyncio.Event()

    async def serve(request):
        reached.set()
        await left.wait()
        return web.json_response(
            {
                "id": "x",
                "object": "chat.completion",
                "model": "gpt-4o-mini",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
            }
        )

    path = tmp_path / "requests.jsonl"
    gateway = await make_gateway(
        await upstream(serve), change=lambda settings: replace(settings, request_log=str(path)), disconnect_drain_s=60
    )
    customer = await gateway.customer()

    await leave(customer, chat(model="gpt-4o-mini"), reached.wait)
    await noticed(gateway)
    left.set()
    (line,) = await lines_of(path, 1)
    assert (line["status"], line["code"], line["input_tokens"], line["output_tokens"]) == (499, None, 11, 3)
