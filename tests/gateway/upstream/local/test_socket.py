"""The local provider over a WebSocket: a client's first try of that mode needs no provider's key."""

import pytest

from tests.support.gateways import spent_nano, the_event
from tests.support.response_sockets import answer, connected

DEMO = {"model": "demo", "max_output_tokens": 50}


async def test_demo_answers_on_a_socket_and_is_charged(customer):
    async with connected(customer) as socket:
        events = await answer(socket, **DEMO)
    assert "error" not in events[-1], events[-1]
    assert [event["type"] for event in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    usage = events[-1]["response"]["usage"]
    event = await the_event(customer)
    assert (event["provider"], event["output_tokens"]) == ("local", usage["output_tokens"])
    assert await spent_nano(customer) > 0


async def test_what_was_not_stored_is_known_on_its_socket(customer):
    async with connected(customer) as socket:
        first = (await answer(socket, **DEMO, input="Count to 3"))[-1]["response"]
        goes_on = await answer(socket, **DEMO, input="And then?", previous_response_id=first["id"])
    assert goes_on[-1]["response"]["usage"]["input_tokens"] > first["usage"]["input_tokens"]


@pytest.mark.parametrize("fields", [{"model": "demo", "input": 5}, {"model": "demo", "previous_response_id": "resp_x"}])
async def test_what_is_wrong_is_an_error_and_costs_nothing(customer, fields):
    async with connected(customer) as socket:
        assert (await answer(socket, **fields))[-1]["type"] == "error"
    assert await spent_nano(customer) == 0
