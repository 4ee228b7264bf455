"""An API of the tests' own through a whole gateway: served, metered, refused and streamed, registered by one line."""

import json
from dataclasses import replace
from functools import partial

import pytest

from billing.quotas import Metric, Quota, Window
from tests.gateway.conftest import chat
from tests.support.answering import PROVIDER_KEY, SSE, Provider, answer, saying, streaming
from tests.support.echo_dialect.served import HEARD, SAID, fault, say, speaking_echo
from tests.support.echo_dialect.served import echo_served as echo_served
from tests.support.echo_dialect.served import gateway_of as gateway_of
from tests.support.gateways import (
    INPUT,
    OUTPUT,
    ask,
    assert_free,
    fetch,
    spent_nano,
    the_event,
)

pytestmark = pytest.mark.slow

STREAM = (
    b'event: begin\ndata: {"spent":{"read":10,"written":1}}\n\n',
    b'event: word\ndata: {"word":"Good"}\n\n',
    b'event: word\ndata: {"word":" day."}\n\n',
    b'event: count\ndata: {"spent":{"written":5,"read":null}}\n\n',
    b'event: farewell\ndata: {"bye":true}\n\n',
)
ARRAY = (b'[{"spent":{"read":10}}\n,{"word":"Good"}\n,{"wo', b'rd":" day."}\n,{"spent":{"written":5}}\n', b"]\n")


@pytest.mark.parametrize("model", ["gpt-4o-mini", "openai/gpt-4o-mini", "openai%2Fgpt-4o-mini"])
async def test_a_request_is_served_and_metered(customer_of, model):
    provider = Provider(saying(HEARD))
    customer = await customer_of(provider.serve)
    fetched = await say(customer, model=model)
    assert (fetched.status, fetched.json) == (200, HEARD)
    (sent,) = provider.sent
    assert (sent.path, sent.query, sent.body) == ("/base/models/gpt-4o-mini:say", "v=3", SAID)
    assert sent.headers["x-echo-provider"] == PROVIDER_KEY
    assert customer.key not in str(sent.headers)
    assert "Authorization" not in sent.headers
    event = await the_event(customer, 10 * INPUT + 5 * OUTPUT)
    assert event["endpoint"] == "/echo/v2/models/{model}:say"
    assert (event["provider"], event["model"], event["estimated"]) == ("openai", "gpt-4o-mini", False)


async def test_a_key_may_stand_in_the_query(customer_of):
    provider = Provider(saying(HEARD))
    customer = await customer_of(provider.serve)
    query = f"?secret={customer.key}&alt=sse&limit=9&tone=kind"
    url = f"{customer.gateway.url}/echo/v2/models/gpt-4o-mini:say{query}"
    assert (await fetch(customer.gateway.session.post(url, data=SAID))).status == 200
    assert provider.sent[0].query == "v=3&alt=sse&tone=kind"
    other = await customer.gateway.customer("1.00")
    fault(await say(other, query=query), 401, "invalid_api_key")


async def test_refusals_are_in_the_api_s_own_envelope(gateway_of):
    provider = Provider(saying(HEARD))
    gateway = await gateway_of(provider.serve)
    customer, poor = await gateway.customer("5.00"), await gateway.customer("0.000000001")
    fault(await say(customer, headers={"x-echo-key": "mg_wrong"}), 401, "invalid_api_key")
    fault(await say(customer, body=b"{}"), 400, "invalid_request_error")
    fault(await say(customer, model="nothing"), 404, "model_not_found")
    fault(await say(customer, how="shout"), 404, "not_found")
    assert "billing" in fault(await say(poor), 402, "billing_required")
    async with gateway.session.get(f"{gateway.url}/echo/v2/models/gpt-4o-mini:say") as got:
        assert (got.status, list(await got.json())) == (405, ["fault"])
    assert provider.sent == []
    await assert_free(customer)


async def test_a_window_that_is_exhausted_is_refused(customer_of):
    def once(settings):
        quota = Quota(Window.day, Metric.requests, 1)
        plans = {name: replace(plan, quotas=(quota,)) for name, plan in settings.plans.items()}
        return replace(settings, plans=plans)

    customer = await customer_of(saying(HEARD), at=partial(speaking_echo, change=once))
    assert (await say(customer)).status == 200
    assert fault(await say(customer), 429, "quota_exceeded")["quota"]["limit"] == 1


@pytest.mark.parametrize("pieces", [STREAM, (b"".join(STREAM),), tuple(bytes([byte]) for byte in b"".join(STREAM))])
async def test_a_stream_passes_byte_for_byte(customer_of, pieces):
    """Each count of its usage is the last one that was said."""
    customer = await customer_of(streaming(*pieces))
    fetched = await say(customer, "stream")
    assert (fetched.status, fetched.body, fetched.cut) == (200, b"".join(STREAM), False)
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]


async def test_the_end_of_a_stream_waits_for_its_debit(customer_of, monkeypatch):
    customer = await customer_of(streaming(*STREAM))
    holds = customer.gateway.runtime.engine.holds
    settle, ended = holds.settle, []

    def settling(*args):
        ended.append(True)
        return settle(*args)

    monkeypatch.setattr(holds, "settle", settling)
    headers = {"x-echo-key": customer.key}
    url = f"{customer.gateway.url}/echo/v2/models/gpt-4o-mini:stream"
    taken = b""
    async with customer.gateway.session.post(url, data=SAID, headers=headers) as answered:
        async for chunk in answered.content.iter_any():
            taken += chunk
            assert b"farewell" not in taken or ended
    assert taken == b"".join(STREAM)
    await the_event(customer, 10 * INPUT + 5 * OUTPUT)


async def test_a_json_array_is_streamed(customer_of):
    reply = streaming(*ARRAY, headers={"Content-Type": "application/json"})
    customer = await customer_of(reply)
    fetched = await say(customer, "list")
    assert (fetched.status, fetched.body, fetched.cut) == (200, b"".join(ARRAY), False)
    assert not (await the_event(customer, 10 * INPUT + 5 * OUTPUT))["estimated"]


@pytest.mark.parametrize(("how", "pieces"), [("stream", STREAM[:-2]), ("list", ARRAY[:-1])])
async def test_a_stream_without_its_end_is_cut(customer_of, how, pieces):
    headers = SSE if how == "stream" else {"Content-Type": "application/json"}
    customer = await customer_of(streaming(*pieces, headers=headers))
    assert (await say(customer, how)).cut
    event = await the_event(customer)
    assert (event["status"], event["input_tokens"]) == (502, 10)
    assert event["output_tokens"] >= 2


async def test_the_cost_stands_in_the_last_usage_where_the_client_wants_it(customer_of):
    customer = await customer_of(streaming(*STREAM))
    fetched = await say(customer, "stream", headers={"x-metergate-include-cost": "true"})
    count = next(line for line in fetched.body.split(b"\n\n") if line.startswith(b"event: count"))
    assert json.loads(count.partition(b"data: ")[2])["spent"]["charge_usd"] == "0.0000045"
    assert fetched.body.endswith(STREAM[-1])


async def test_a_free_endpoint_is_forwarded_and_costs_nothing(customer_of):
    provider = Provider(saying({"read": 10}))
    customer = await customer_of(provider.serve)
    fetched = await say(customer, "measure", b'{"text": "Say something."}')
    assert (fetched.status, fetched.json) == (200, {"read": 10})
    assert provider.sent[0].path == "/base/models/gpt-4o-mini:measure"
    event = await the_event(customer, 0)
    assert (event["total_tokens"], event["endpoint"]) == (0, "/echo/v2/models/{model}:measure")
    fault(await say(customer, "measure", headers={"x-echo-key": ""}), 401, "invalid_api_key")


async def test_a_maximum_that_is_granted_stands_where_the_api_takes_it(customer_of):
    provider = Provider(saying(HEARD))
    customer = await customer_of(provider.serve, "0.01")
    fetched = await say(customer, body=b'{"text": "Say something."}')
    granted = int(fetched.headers["x-metergate-granted-output-tokens"])
    assert provider.sent[0].json == {"text": "Say something.", "limit": granted}


async def test_an_answer_without_usage_is_estimated(customer_of):
    customer = await customer_of(saying({"words": "Good day."}))
    assert (await say(customer)).status == 200
    event = await the_event(customer)
    assert event["estimated"]
    assert 0 < event["output_tokens"] <= 9
    assert await spent_nano(customer) > 0


async def test_a_request_reaches_no_provider_that_does_not_serve_its_api(customer_of):
    """The gateway's own provider speaks OpenAI's; this one, here, speaks the other alone."""
    provider = Provider(saying(answer()))
    customer = await customer_of(provider.serve)
    assert "openai" in fault(await say(customer, model="demo"), 404, "model_not_found")["said"]
    refused = await ask(customer, chat(model="gpt-4o-mini"))
    assert (refused.status, refused.json["error"]["code"]) == (404, "model_not_found")
    assert "echo" in refused.json["error"]["message"]
    assert provider.sent == []


async def test_the_other_api_is_served_beside_it(customer_of):
    customer = await customer_of(saying(HEARD))
    assert (await ask(customer, chat())).status == 200
    assert (await say(customer)).status == 200
