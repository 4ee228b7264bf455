"""What tests of answers without a usage of their own share."""

from dataclasses import replace
from datetime import date
from typing import Any

from billing.pricing import PriceRow, PriceTable
from gateway.config.settings import Settings
from gateway.tokens import O200K, Tokenizer
from tests.gateway.conftest import Gateway
from tests.support.answering import until
from tests.support.gateways import INPUT, OUTPUT

# Of one picture, in `pictures`.
IMAGE_TOKENS = 1445


def repriced(settings: Settings, rates: dict[str, int], **fields: Any) -> Settings:
    """Settings in which gpt-4o-mini has these prices, in nano-USD a token."""
    per_million = {name: rate * 10**6 for name, rate in rates.items()}
    row = PriceRow("openai", "gpt-4o-mini", date(2025, 1, 1), per_million, {}, **fields)
    return replace(settings, prices=PriceTable([*settings.prices.rows, row]))


def pictures(settings: Settings) -> Settings:
    """Settings in which it is known what a picture counts as."""
    bounds = {"part_tokens": {"image": IMAGE_TOKENS}, "max_output_tokens": 16_384, "context_window": 10**6}
    return repriced(settings, {"input": INPUT, "output": OUTPUT}, **bounds)


def input_nano(tokenizer: Tokenizer, body: dict[str, Any]) -> int:
    return tokenizer.count_chat_messages(body["messages"], O200K) * INPUT


async def held_nano(gateway: Gateway) -> int:
    """What the one running request holds."""
    await until(lambda: len(gateway.runtime.engine.holds.live) == 1)
    (hold,) = gateway.runtime.engine.holds.live.values()
    return hold.cost_nano
