"""Nothing of a request refers in a circle at its end: the collector finds nothing of it."""

from collections import Counter
from typing import Any

import pytest

from tests.gateway.conftest import chat
from tests.support.answering import DONE, WORDS, Provider, answer, saying, streaming, usage_chunk
from tests.support.garbage import circles
from tests.support.gateways import ask

REQUESTS = 10
OF_REQUESTS = (
    "billing.holds.model",
    "gateway.dialects",
    "gateway.proxy",
    "gateway.server.exchange",
    "gateway.upstream.transport",
)
REPLIES = {
    "whole": (saying(answer()), {}),
    "stream": (streaming(*WORDS, usage_chunk(), DONE), {"stream": True}),
    "whole, without usage": (saying(answer("Yes.", {})), {}),
    "refused by its provider": (saying({"error": {}}, 400), {}),
}


@pytest.mark.parametrize("name", REPLIES)
async def test_a_request_leaves_no_circle(customer_of, name):
    reply, fields = REPLIES[name]
    customer = await customer_of(Provider(reply).serve)
    body = chat(model="gpt-4o-mini", **fields)
    for _ in range(2):
        await ask(customer, body)
    with circles() as left:
        for _ in range(REQUESTS):
            await ask(customer, body)
        found = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in left() if _is_ours(each))
    assert not found


def _is_ours(thing: Any) -> bool:
    """Whether it is of requests; what runs beside them may leave what it likes, as gateways of tests before do."""
    module = type(thing).__module__
    return module.startswith(OF_REQUESTS) and module != "gateway.proxy.target_health"
