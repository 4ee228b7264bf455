"""OpenAI's format, the answer: what a provider says that it charged, which rows with `cost: reported` believe.

- OpenRouter: `cost`, to which the cost at the upstream is added where the key there is the operator's own
  (https://openrouter.ai/docs/use-cases/usage-accounting).
- Perplexity: `cost.total_cost`, the fee of the request included (https://docs.perplexity.ai/api-reference).
- xAI: `cost_in_usd_ticks`, of 1e-10 USD each.

A cost is read from the text of its number: no float comes of it. This file owns that none takes longer to read than its
text is long, whatever exponent stands there.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

import msgspec
from msgspec import Raw

MAX_COST_USD: Final = 1_000_000
"""A reported cost of so much is none."""
COST_DECIMALS: Final = 24
TICK_DECIMALS: Final = 10
_SMALLEST: Final = Decimal(1).scaleb(-COST_DECIMALS)
_CONTEXT: Final = Context(prec=64)
_NULL: Final = Raw(b"null")


class CostFields(msgspec.Struct):
    """The fields of a usage object that tell a cost."""

    cost: Raw = _NULL
    cost_details: Raw = _NULL
    is_byok: Raw = _NULL
    cost_in_usd_ticks: Raw = _NULL


class _Details(msgspec.Struct):
    upstream_inference_cost: Raw = _NULL


class _Total(msgspec.Struct):
    total_cost: Raw = _NULL


_DETAILS: Final = msgspec.json.Decoder(_Details)
_TOTAL: Final = msgspec.json.Decoder(_Total)


def reported_cost(said: CostFields) -> str | None:
    """Return the cost as a plain decimal of USD, None where there is none, or what stands there is no amount."""
    try:
        cost = _cost(said)
    except (msgspec.DecodeError, ArithmeticError, ValueError):
        return None
    if cost is None or not 0 <= cost < MAX_COST_USD:
        return None
    if cost and cost.adjusted() < -COST_DECIMALS:
        cost = _SMALLEST
    exponent = cost.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -COST_DECIMALS:
        cost = cost.quantize(_SMALLEST, ROUND_CEILING, _CONTEXT)
    return f"{cost:f}"


def _cost(said: CostFields) -> Decimal | None:
    """Raises `msgspec.DecodeError`, `ArithmeticError`, `ValueError`."""
    if said.cost == _NULL:
        ticks = _decimal(said.cost_in_usd_ticks)
        return None if ticks is None else ticks.scaleb(-TICK_DECIMALS)
    text = bytes(said.cost)
    cost = _decimal(_TOTAL.decode(text).total_cost) if text.startswith(b"{") else _decimal(said.cost)
    if cost is not None and said.is_byok == Raw(b"true") and said.cost_details != _NULL:
        cost += _decimal(_DETAILS.decode(said.cost_details).upstream_inference_cost) or 0
    return cost


def _decimal(raw: Raw) -> Decimal | None:
    return None if raw == _NULL else Decimal(bytes(raw).decode())
