"""Traces of requests on whole gateways, as OpenTelemetry's own messages read them."""

import asyncio
import base64
import json
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from gateway.config.environment import TraceSettings
from gateway.config.providers import ModelConfig
from tests.gateway.conftest import chat
from tests.support.answering import DONE, WORDS, answer, saying, streaming, until, usage_chunk
from tests.support.clients import leave, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT, ask
from tests.support.programs import judge

pytestmark = pytest.mark.slow

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# Reads what was exported as OpenTelemetry's own messages have it, and fails on a field that these don't have.
READ = """
import sys
from google.protobuf.json_format import MessageToJson, Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
print(MessageToJson(Parse(sys.stdin.read(), ExportTraceServiceRequest())))
"""


class Receiver:
    """A provider that takes traces, too."""

    def __init__(self, reply):
        self.reply, self.bodies, self.asked = reply, [], []

    async def serve(self, request):
        if request.path.endswith("/v1/traces"):
            self.bodies.append(json.loads(await request.read()))
            return web.json_response({})
        self.asked.append(request.headers)
        return await self.reply(request)

    def spans(self):
        """The spans that have come, by name."""
        return {
            span["name"]: span
            for body in self.bodies
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        }


def traced(url, ratio=1.0):
    base = url.removesuffix("/v1")
    settings = TraceSettings(endpoint=f"{base}/v1/traces", service="ours", ratio=ratio)
    again = ModelConfig("gpt-4o-mini", "openai", "gpt-4o-mini")
    return lambda given: replace(given, traces=settings, models={**given.models, "gpt-4o-mini": again})


def attributes(span):
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


@pytest.fixture
def receiver():
    return Receiver(saying(answer()))


@pytest.fixture
async def customer(receiver, customer_of):
    return await customer_of(receiver.serve, at=traced, retries=1, retry_backoff_ms=1)


async def all_of(receiver, *names):
    await until(lambda: set(names) <= receiver.spans().keys())
    return [receiver.spans()[name] for name in names]


async def test_a_request_is_a_trace_of_its_stages(customer, receiver):
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    fetched = await ask(customer, headers=parent)
    assert fetched.status == 200
    root, admit, attempt, settle = await all_of(
        receiver, "POST /v1/chat/completions", "admit", "chat gpt-4o-mini", "settle"
    )
    assert {span["traceId"] for span in (root, admit, attempt, settle)} == {TRACE}
    assert (root["parentSpanId"], root["traceState"]) == (SPAN, "vendor=1")
    assert {span["parentSpanId"] for span in (admit, attempt, settle)} == {root["spanId"]}
    (sent,) = receiver.asked
    assert (sent["traceparent"], sent["tracestate"]) == (f"00-{TRACE}-{attempt['spanId']}-01", "vendor=1")
    times = [int(span[f"{end}TimeUnixNano"]) for span in (admit, attempt, settle) for end in ("start", "end")]
    assert times == sorted(times)
    assert int(root["startTimeUnixNano"]) <= times[0]
    assert times[-1] <= int(root["endTimeUnixNano"])
    of_root, of_attempt = attributes(root), attributes(attempt)
    charged = str(10 * INPUT + 5 * OUTPUT)
    assert (of_root["http.response.status_code"], of_root["metergate.charged_nano_usd"]) == ("200", charged)
    assert of_root["metergate.request_id"] == fetched.headers["x-request-id"]
    assert (of_attempt["gen_ai.provider.name"], of_attempt["gen_ai.request.model"]) == ("openai", "gpt-4o-mini")
    assert (of_attempt["gen_ai.usage.input_tokens"], of_attempt["gen_ai.usage.output_tokens"]) == ("10", "5")
    assert "Say something" not in json.dumps(receiver.bodies)
    assert customer.key not in json.dumps(receiver.bodies)


async def test_opentelemetrys_own_messages_have_every_field(customer, receiver):
    receiver.reply = streaming(*WORDS, usage_chunk(), DONE)
    assert (await ask(customer, chat(model="gpt-4o-mini", stream=True))).status == 200
    await all_of(receiver, "POST /v1/chat/completions")
    for span in receiver.spans().values():  # what OTLP has in hex, the messages' own JSON has in base64
        for key in {"traceId", "spanId", "parentSpanId"} & span.keys():
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    python = Path(judge("kubernetes-validate")).with_name("python")
    ran = await asyncio.to_thread(
        partial(subprocess.run, [python, "-c", READ], input=json.dumps(receiver.bodies[-1]), text=True),
        capture_output=True,
        check=True,
        timeout=60,
    )
    (resource,) = json.loads(ran.stdout)["resourceSpans"]
    assert attributes(resource["resource"])["service.name"] == "ours"
    spans = {span["name"]: span for span in resource["scopeSpans"][0]["spans"]}
    assert spans["chat gpt-4o-mini"]["kind"] == "SPAN_KIND_CLIENT"
    assert float(attributes(spans["chat gpt-4o-mini"])["gen_ai.response.time_to_first_chunk"]) > 0


async def test_each_attempt_has_a_span_of_its_own(customer, receiver):
    whole = saying(answer())

    async def first_fails(request):
        receiver.reply = whole
        return await saying({}, 503)(request)

    receiver.reply = first_fails
    assert (await ask(customer)).status == 200
    await all_of(receiver, "POST /v1/chat/completions")
    spans = [span for body in receiver.bodies for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    failed, served = (span for span in spans if span["name"] == "chat gpt-4o-mini")
    assert (attributes(failed)["error.type"], failed["status"]) == ("503", {"code": 2})
    assert "error.type" not in attributes(served)
    assert [sent["traceparent"].split("-")[2] for sent in receiver.asked] == [failed["spanId"], served["spanId"]]


async def test_a_refusal_says_why(customer, receiver):
    assert (await ask(customer, chat(model="none-such"))).status == 404
    (root,) = await all_of(receiver, "POST /v1/chat/completions")
    found = attributes(root)
    assert (found["http.response.status_code"], found["error.type"]) == ("404", "model_not_found")
    assert found["metergate.account_id"] == customer.account_id


async def test_a_trace_ends_as_its_client_leaves(customer, receiver):
    """What is settled without it, afterwards, is no part of it: a stage that began after its end."""
    go_on = asyncio.Event()
    whole = saying(answer())

    async def wait(request):
        await go_on.wait()
        return await whole(request)

    receiver.reply = wait
    await leave(customer, chat(model="gpt-4o-mini"), lambda: until(lambda: bool(receiver.asked)))
    await noticed(customer.gateway)
    go_on.set()
    await the_event_in_the_end(customer, 10 * INPUT + 5 * OUTPUT)
    (root,) = await all_of(receiver, "POST /v1/chat/completions")
    assert attributes(root)["http.response.status_code"] == "499"
    assert "settle" not in receiver.spans()
    for span in receiver.spans().values():
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) <= int(root["endTimeUnixNano"])


async def test_a_provider_is_told_of_one_span(customer_of, receiver):
    """Also where its entry passes clients' headers of traces."""
    names = ("traceparent", "tracestate")

    def passing(url):
        return lambda given: replace(
            traced(url)(given),
            providers={name: replace(each, pass_headers=names) for name, each in given.providers.items()},
        )

    customer = await customer_of(receiver.serve, at=passing)
    parent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    assert (await ask(customer, headers=parent)).status == 200
    (attempt,) = await all_of(receiver, "chat gpt-4o-mini")
    (sent,) = receiver.asked
    assert sent.getall("traceparent") == [f"00-{TRACE}-{attempt['spanId']}-01"]
    assert sent.getall("tracestate") == ["vendor=1"]


async def test_what_is_not_sampled_leaves_no_trace(customer_of, receiver):
    customer = await customer_of(receiver.serve, at=partial(traced, ratio=0.0))
    assert (await ask(customer, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})).status == 200
    (sent,) = receiver.asked
    assert "traceparent" not in sent
    assert receiver.bodies == []
