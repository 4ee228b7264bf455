"""Streams as providers and what stands before them may send them, in each API through a whole gateway: no byte is
changed, and what is charged is the same. Cut off, they never pass for whole ones, and what passed is charged."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.clients.behaviours import MODEL, TEXT, in_all_apis
from tests.clients.provider import APIS
from tests.gateway.conftest import Customer, Handler, chat
from tests.gateway.dialects.anthropic.bodies import SAY
from tests.gateway.dialects.anthropic.bodies import event as messages_event
from tests.gateway.dialects.gemini.support import ASKED as GEMINI_ASKED
from tests.gateway.dialects.gemini.support import answer as gemini_answer
from tests.gateway.dialects.gemini.support import candidate, counts
from tests.gateway.dialects.gemini.support import events as gemini_events
from tests.gateway.dialects.openai_responses.bodies import USAGE, response
from tests.gateway.dialects.openai_responses.bodies import event as responses_event
from tests.support.answering import SSE, Provider, streaming, usage_chunk
from tests.support.gateways import Fetched, ask, spent_nano

pytestmark = pytest.mark.slow
COMMENT = b": keep-alive\n\n"
COUNTED = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True)
class Way:
    """One API: where a stream is asked for and how, what is counted of `provider`'s, and a report of usage that comes
    too early and says too much, which stands before so many of the last events."""

    path: str
    body: dict[str, Any]
    counted: tuple[int, ...]
    early: bytes
    before: int


WAYS = {
    "/chat/completions": Way(
        "/v1/chat/completions",
        chat(model=MODEL, stream=True, stream_options={"include_usage": True}),
        (10, 0, 0, 5, 0),
        usage_chunk(90, 90),
        2,
    ),
    "/responses": Way(
        "/v1/responses",
        {"model": MODEL, "input": "Hello", "stream": True},
        (36, 10, 4, 87, 60),
        responses_event("response.in_progress", response=response(usage={**USAGE, "output_tokens": 900})),
        1,
    ),
    "/messages": Way(
        "/v1/messages",
        {"model": MODEL, "max_tokens": 1_000, "messages": SAY, "stream": True},
        (540, 500, 20, 15, 0),
        messages_event("message_delta", delta={}, usage={"output_tokens": 900}),
        2,
    ),
    "enerateContent": Way(
        f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse",
        GEMINI_ASKED,
        (10, 0, 0, 5, 0),
        gemini_events(gemini_answer(candidate("", None), usage=counts(90, 90))),
        1,
    ),
}


def cut_at(whole: bytes, places: Iterable[int]) -> tuple[bytes, ...]:
    """A stream in pieces that begin at these places."""
    return tuple(whole[begins:ends] for begins, ends in pairwise(sorted({0, *places, len(whole)})))


def shapes(pieces: tuple[bytes, ...], way: Way) -> dict[str, tuple[bytes, Handler]]:
    """What the client is to get, and what the provider sends."""
    plain = b"".join(pieces).replace(b"\r\n", b"\n")
    crlf = plain.replace(b"\n", b"\r\n")
    commented = COMMENT + COMMENT.join(pieces)
    last = len(plain) - len(pieces[-1])
    early = b"".join((*pieces[: -way.before], way.early, *pieces[-way.before :]))
    zipped = gzip.compress(early)
    return {
        "plain": (plain, streaming(plain)),
        "CRLF": (crlf, streaming(*cut_at(crlf, range(1, len(crlf), 97)))),
        "comments": (commented, streaming(commented)),
        "byte by byte": (plain, streaming(*cut_at(plain, range(len(plain))))),
        "usage in many packets": (plain, streaming(*cut_at(plain, range(last - 150, len(plain), 7)))),
        "usage repeated": (early, streaming(early)),
        "gzip": (
            early,
            streaming(*cut_at(zipped, range(0, len(zipped), 31)), headers={**SSE, "Content-Encoding": "gzip"}),
        ),
    }


async def sent_to(customer: Customer, way: Way) -> Fetched:
    return await ask(customer, way.body, way.path)


@pytest.mark.parametrize("name", WAYS)
async def test_streams(name, make_gateway, upstream):
    way, pieces = WAYS[name], APIS[name].stream({}, TEXT)
    provider = Provider(streaming())
    gateway = await make_gateway(await upstream(provider.serve), change=in_all_apis)
    customer = await gateway.customer()
    shaped = shapes(pieces, way)
    for shape, (whole, reply) in shaped.items():
        provider.reply = reply
        fetched = await sent_to(customer, way)
        assert (fetched.status, fetched.body, fetched.cut) == (200, whole, False), shape
    found = [tuple(event[field] for field in COUNTED) for event in await customer.events()]
    assert dict(zip(shaped, found, strict=True)) == dict.fromkeys(shaped, way.counted)
    whole, last = b"".join(pieces), len(b"".join(pieces[: -way.before]))
    for at in (last - 3, last + 1, last + len(pieces[-way.before]) // 2):
        customer = await gateway.customer()
        provider.reply = streaming(whole[:at], cut=True)
        fetched = await sent_to(customer, way)
        assert fetched.cut
        assert whole.startswith(fetched.body)
        assert await spent_nano(customer) > 0
        assert [event["status"] for event in await customer.events()] == [502]
