"""A usage event tells an answer that its client got whole from one that was cut, and why it was."""

from contextlib import suppress
from typing import Any

import pytest

from billing.ledger.writer import write_debits
from billing.money import parse_usd
from tests.gateway.conftest import Handler, chat
from tests.support.answering import DONE, WORDS, Gate, answer, saying, streaming, until, usage_chunk
from tests.support.clients import Slow, asking_by_hand, leave, noticed, the_event_in_the_end
from tests.support.gateways import INPUT, OUTPUT, ask, the_event
from tests.support.holds import debit
from tests.support.passed_answers import STREAM

COUNTED_NANO = 10 * INPUT + 5 * OUTPUT


def shown(found: dict[str, Any]) -> tuple[int, str | None, bool]:
    return found["status"], found["note"], found["estimated"]


ENDS: dict[str, tuple[Handler, tuple[int, str | None, bool]]] = {
    "whole": (streaming(*WORDS, usage_chunk(), DONE), (200, None, False)),
    "whole, without usage": (streaming(*WORDS, DONE), (200, "no_usage", True)),
    "cut by the provider": (streaming(*WORDS[:2], cut=True), (502, "upstream_cut", True)),
    "ended without its end": (streaming(*WORDS[:2]), (502, "upstream_cut", True)),
    "cut after its usage": (streaming(*WORDS, usage_chunk(), cut=True), (502, "upstream_cut", False)),
}


@pytest.mark.parametrize("how", ENDS)
async def test_how_a_stream_ended(customer_of, how):
    reply, reason = ENDS[how]
    customer = await customer_of(reply)
    fetched = await ask(customer, STREAM)
    assert fetched.cut == (reason[0] != 200)
    assert shown(await the_event(customer)) == reason


async def test_a_client_that_left_is_seen_though_the_provider_told_its_usage(gateway_of):
    provider = Slow(WORDS[0], *WORDS[1:], usage_chunk(), DONE)
    gateway = await gateway_of(provider.serve, disconnect_drain_s=60)
    customer = await gateway.customer()
    await leave(customer, STREAM, first=WORDS[0])
    await noticed(gateway)
    provider.let.set()
    assert shown(await the_event_in_the_end(customer, COUNTED_NANO)) == (499, "client_gone", False)


async def test_so_is_one_that_left_before_a_whole_answer_came(gateway_of):
    gate = Gate(saying(answer()))
    gateway = await gateway_of(gate.serve, disconnect_drain_s=60)
    customer = await gateway.customer()
    await leave(customer, chat(model="gpt-4o-mini"), gate.reached)
    await noticed(gateway)
    gate.opened.set()
    assert shown(await the_event_in_the_end(customer, COUNTED_NANO)) == (499, "client_gone", False)


async def test_one_that_took_too_long(customer_of):
    provider = Slow(WORDS[0], DONE)
    customer = await customer_of(provider.serve, max_request_s=1.5)
    assert (await ask(customer, STREAM)).cut
    assert shown(await the_event_in_the_end(customer)) == (504, "max_request_s", True)


async def test_a_stream_is_cut_as_soon_as_its_hold_is_found_closed(gateway_of):
    """Others had taken this gateway for dead; it finds out while the provider is still at it."""
    provider = Slow(WORDS[0], DONE)
    gateway = await gateway_of(provider.serve)
    customer = await gateway.customer()
    engine = gateway.runtime.engine
    async with asking_by_hand(customer, STREAM) as (reader, _):
        await reader.readuntil(WORDS[0])
        (hold,) = engine.holds.live.values()
        row = debit(hold.id, customer, admitted_at_ms=hold.admitted_at_ms, outcome="expired", charged_nano=0)  # type: ignore[arg-type]
        await write_debits(gateway.runtime.database, [row])
        (partition,) = engine.partitions.all
        await engine.partitions.renew(partition)
        rest = b""
        with suppress(ConnectionError):
            rest = await reader.read()
        assert DONE not in rest
        assert not provider.let.is_set()
    await until(lambda: not engine.holds.live)
    assert provider.gone or not provider.ended
    (found,) = await customer.events()
    assert (found["outcome"], parse_usd(found["charged_usd"])) == ("expired", 0)
