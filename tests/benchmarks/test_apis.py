"""Streams of the other APIs: whole by their own shape, and metered as a chat's."""

import pytest

from benchmarks import wire
from benchmarks.apis import APIS
from gateway.dialects.body import StructureBounds
from gateway.dialects.registry import make_dialects


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_stream_is_whole_and_costs_what_a_chat_costs(api):
    assert api.shape.holds(api.answer)
    assert not api.shape.holds(api.answer.replace(wire.chunk(api.events[10]), b""))
    match = make_dialects(StructureBounds()).find("POST", api.path.decode(), dict.fromkeys(api.headers, ""))
    tap = match.dialect.tap(b"text/event-stream", usage_added=False, include_cost=False)
    whole = b"".join(api.events)
    passed = tap.feed(whole)
    tap.end()
    assert (tap.reported.usage.input_tokens, tap.reported.usage.output_tokens) == (
        wire.INPUT_TOKENS,
        wire.OUTPUT_TOKENS,
    )
    assert tap.done
    assert passed + tap.finish() == whole


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
def test_a_request_shows_its_key_where_its_clients_write_it(api):
    head, _, body = api.request("mg_secret").partition(b"\r\n\r\n")
    assert head.startswith(b"POST " + api.path + b" HTTP/1.1\r\n")
    assert head.count(b"mg_secret") == 1
    assert body == wire.compact(api.body)
