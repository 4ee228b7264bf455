"""Ways to an answer far below its price: what one parser here reads and another at the provider does not."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from billing.money import parse_usd
from billing.prices import PriceRow, PriceTable
from gateway.settings import Settings
from tests.gateway.conftest import Handler, MakeGateway, chat
from tests.gateway.exchanges import (
    INPUT,
    OUTPUT,
    Provider,
    answer,
    ask,
    delta,
    event,
    fetch,
    refusal,
    saying,
    streaming,
    the_event,
    usage,
)

Upstream = Callable[[Handler], Any]
STREAM = chat(model="gpt-4o-mini", stream=True, max_tokens=4_000)
ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
WINDOW = 10_000
SEARCH_NANO = 25_000_000


def priced(*models: str, per_unit: dict[str, int] | None = None) -> Callable[[Settings], Settings]:
    """Makes settings in which these models of `openai` cost what gpt-4o-mini costs."""

    def change(settings: Settings) -> Settings:
        rates = {"input": INPUT * 10**6, "output": OUTPUT * 10**6}
        rows = [
            PriceRow("openai", model, date(2025, 1, 1), rates, per_unit or {}, (), None, None, 1000, WINDOW)
            for model in models
        ]
        return replace(settings, prices=PriceTable(rows))

    return change


# What the provider is told that the body is


HIDDEN = (
    b'{"model":"gpt-4o-mini","max_tokens":1,"messages":[{"role":"user","content":"x"}],'
    b'"metadata":{"x":"+ACIAfQ-,+ACI-n+ACI-:128,+ACI-max+AF8-tokens+ACI-:16000,+ACI-y+ACI-:+AHsAIg-z+ACI-:+ACI-"}}'
)


@pytest.mark.parametrize(
    "said", ["application/json; charset=utf-7", "application/x-www-form-urlencoded", "text/plain;charset=UTF-16", None]
)
async def test_a_provider_is_told_that_the_body_is_what_was_read_here(
    make_gateway: MakeGateway, upstream: Upstream, said: str | None
) -> None:
    """`HIDDEN` has an `n` of 128 to whoever takes it for UTF-7, and servers that obey a charset do."""
    assert json.loads(HIDDEN)["max_tokens"] == 1
    assert json.loads(HIDDEN.decode("utf-7"))["n"] == 128
    provider = Provider(saying(answer()))
    gateway = await make_gateway(await upstream(provider.serve))
    customer = await gateway.customer()
    headers = {} if said is None else {"Content-Type": said}
    assert (await fetch(customer.post(data=HIDDEN, headers=headers))).status == 200
    (sent,) = provider.sent
    assert sent.headers.getall("Content-Type") == ["application/json"]
