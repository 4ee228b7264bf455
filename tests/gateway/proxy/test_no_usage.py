"""What a whole answer costs that says nothing of its usage, or what can't be."""

import gzip
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from billing.ledger.verify import verify
from gateway.config.settings import Settings
from gateway.proxy.detached import Detached
from gateway.proxy.settlement import settlements
from tests.gateway.conftest import Handler, chat
from tests.support.answering import DONE, WORDS, Gate, Provider, answer, saying, streaming, usage, usage_chunk
from tests.support.clients import Slow, asking_by_hand, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT, ask, asking, refusal, spent_nano, the_event
from tests.support.passed_answers import PLAIN, STREAM
from tests.support.unreported_costs import held_nano, repriced

pytestmark = pytest.mark.slow


async def test_an_answer_above_its_bound_is_refused_and_charged(gateway_of):
    packed = gzip.compress(json.dumps(answer("x" * 100_000)).encode())
    assert len(packed) < 4096
    gate = Gate(saying(b""))
    gateway = await gateway_of(gate.serve, upstream_answer_bytes=4096)
    for then in (saying(answer("x" * 5000)), _in_chunks(answer("x" * 5000)), saying(packed, Content_Encoding="gzip")):
        gate.opened.clear()
        gate._then = then
        customer = await gateway.customer()
        running = asking(customer, chat(model="gpt-4o-mini", n=128, logprobs=True, top_logprobs=20, max_tokens=20))
        held = await held_nano(gateway)
        gate.opened.set()
        error = refusal(await running, 502, "upstream_error")
        assert "larger than 4096 bytes" in error["message"]
        assert "was charged" in error["message"]
        found = await the_event(customer, held)
        assert (found["estimated"], found["note"]) == (True, "answer_too_large")


def _in_chunks(body: dict[str, Any]) -> Handler:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(json.dumps(body).encode())
        return response

    return reply


async def test_a_json_answer_that_says_nothing_known_is_charged_as_held(make_gateway, upstream):
    gate = Gate(saying(b""))
    gateway = await make_gateway(await upstream(gate.serve))
    for body in ({}, {"object": "something", "result": "else"}, {"choices": "none"}):
        gate.opened.clear()
        gate._then = saying(body)
        customer = await gateway.customer()
        running = asking(customer, PLAIN)
        held = await held_nano(gateway)
        gate.opened.set()
        fetched = await running
        assert (fetched.status, fetched.json) == (200, body)
        found = await the_event(customer, held)
        assert (found["estimated"], found["note"]) == (True, "no_usage")


async def test_where_missing_usage_is_free_so_are_these(gateway_of):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, missing_usage="free", upstream_answer_bytes=4096)
    for body in ({"object": "something"}, answer("x" * 5000)):
        provider.reply = saying(body)
        customer = await gateway.customer()
        await ask(customer)
        assert (await the_event(customer, 0))["estimated"] is True


@pytest.mark.parametrize(
    "reply",
    [saying(answer(reported=usage(2_000_000_000, 5))), streaming(*WORDS, usage_chunk(10, 2_000_000_000), DONE)],
    ids=["JSON", "a stream"],
)
async def test_a_report_far_above_the_hold_is_not_believed(make_gateway, upstream, reply, caplog):
    gate = Gate(reply)
    gateway = await make_gateway(await upstream(gate.serve))
    customer = await gateway.customer()
    running = asking(customer, chat("A secret prompt.", model="gpt-4o-mini", max_tokens=20))
    held = await held_nano(gateway)
    with caplog.at_level(logging.WARNING):
        gate.opened.set()
        assert (await running).status == 200
    found = await the_event(customer, held)
    assert (found["estimated"], found["note"]) == (True, "implausible_usage")
    (line,) = [record.getMessage() for record in caplog.records if record.name == settlements.__name__]
    assert "2000000000" in line
    assert "secret" not in line
    assert b"metergate_implausible_usage_total 1.0" in await gateway.metrics()


async def test_up_to_the_factor_a_report_is_believed_in_money_and_in_tokens(gateway_of):
    body = chat(model="gpt-4o-mini", max_tokens=100)
    held = len(json.dumps(body)) + 100
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, max_usage_factor=3)
    for tokens, believed in ((3 * held, True), (3 * held + 1, False)):
        provider.reply = saying(answer(reported=usage(tokens, 0)))  # cheap: it is the tokens that are too many
        customer = await gateway.customer()
        await ask(customer, body)
        found = await the_event(customer)
        assert (found["note"] is None, found["input_tokens"] == tokens) == (believed, believed)
    provider.reply = saying(answer(reported=usage(10, 2 * held)))  # dear: it is the money that is too much
    customer = await gateway.customer()
    await ask(customer, body)
    assert (await the_event(customer))["note"] == "implausible_usage"


async def test_without_a_bound_the_model_s_window_is_what_can_be(gateway_of):
    provider = Provider(saying(b""))
    gateway = await gateway_of(provider.serve, strict=False)
    for tokens, believed in ((100_000, True), (20 * 128_000 + 1, False)):
        provider.reply = saying(answer(reported=usage(tokens, 0)))
        customer = await gateway.customer()
        await ask(customer)
        assert ((await the_event(customer))["note"] is None) == believed


async def test_every_charge_follows_from_what_is_kept_of_it(make_gateway, upstream):
    """The ledger's own proof, after estimates and holds that were charged whole."""
    provider = Provider(saying(b""))
    gateway = await make_gateway(await upstream(provider.serve), change=_dear_writes)
    customer = await gateway.customer()
    for reply in (
        saying({}),
        saying(answer(reported=usage(2_000_000_000, 5))),
        saying(answer("Yes.", {})),
        saying(answer()),
    ):
        provider.reply = reply
        await ask(customer)
    await spent_nano(customer)
    await gateway.flush()
    verified = await verify(gateway.runtime.database)
    assert [check.examples for check in verified.checks if check.differences] == []


def _dear_writes(settings: Settings) -> Settings:
    """Settings in which a hold costs more than its counts at plain rates."""
    rates = {"input": INPUT, "cache_write": 2 * INPUT, "output": OUTPUT, "reasoning": 3 * OUTPUT}
    return repriced(settings, rates, max_output_tokens=1000)


async def test_a_gateway_that_stops_reads_nobody_on(make_gateway, upstream, monkeypatch):
    """What its clients have left behind is settled by what has come until then."""
    made = []
    begin = Detached.__init__
    monkeypatch.setattr(Detached, "__init__", lambda self, *given: (made.append(self), begin(self, *given))[1])
    provider = Slow(WORDS[0], DONE)
    gateway = await make_gateway(await upstream(provider.serve), disconnect_drain_s=600)
    customer = await gateway.customer()
    held = []
    async with asking_by_hand(customer, STREAM) as (reader, _):
        await reader.readuntil(WORDS[0])
        held.extend(gateway.runtime.engine.holds.live.values())
    await noticed(gateway)
    made[0].drain_now()
    found = await the_event_in_the_end(customer)
    assert (found["id"], found["note"]) == (held[0].id, "client_gone")
