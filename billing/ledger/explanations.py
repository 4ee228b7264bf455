"""Explanations: how a usage event came to its amount, from the price row that it names. Pure.

The lines of a charge are exact, in 1e-24 USD; their sum is rounded up once. An amount that was not made from counts
(a hold that was charged whole, an expired request) has no lines that add up to it, and says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from billing.money import USD_DECIMALS, format_usd
from billing.prices import COST_SCALE, FACTOR_SCALE, PriceLine, PriceRow, round_up
from billing.times import rfc3339
from billing.usage import Usage

EXACT_DECIMALS: Final = USD_DECIMALS + len(str(COST_SCALE)) - 1
"""Decimals of a USD amount that is held in nano-USD / `COST_SCALE`."""
FACTOR_DECIMALS: Final = len(str(FACTOR_SCALE)) - 1
_LABEL: Final = 14
_NAME: Final = 14


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """A row of usage_events. `cost_nano` is the provider's, `charged_nano` the customer's.

    `markup_scaled` is in percent times `prices.FACTOR_SCALE`. `outcome` is `settled`, or `expired` for a request whose
    gateway died.
    """

    request_id: str
    admitted_at: datetime
    outcome: str
    account_id: str
    user_id: str | None
    key_id: str
    client_request_id: str | None
    upstream_request_id: str | None
    endpoint: str
    feature: str
    model: str
    provider: str
    provider_model: str
    usage: Usage
    cost_nano: int
    charged_nano: int
    price_id: str
    multiplier: str | None
    markup_scaled: int
    estimated: bool
    status: int
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: Mapping[str, str]
    end_user: str | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An event, the price row that it names (None if the ledger has no such row) and the arithmetic of its amount.

    `lines` already contain the multiplier; `sum_scaled` is theirs, in nano-USD / `prices.COST_SCALE`.
    """

    event: UsageEvent
    price: PriceRow | None
    lines: tuple[PriceLine, ...]
    factor_scaled: int
    sum_scaled: int
    cost_nano: int
    charged_nano: int

    @property
    def adds_up(self) -> bool:
        """Whether the arithmetic gives what the ledger holds."""
        return (self.cost_nano, self.charged_nano) == (self.event.cost_nano, self.event.charged_nano)


def explain(event: UsageEvent, price: PriceRow | None) -> Explanation:
    """The arithmetic of an event by the price row that it names."""
    lines = tuple(price.lines(event.usage, event.multiplier)) if price else ()
    factor = price.factor(event.multiplier) if price else FACTOR_SCALE
    total = sum(line.amount_scaled for line in lines)
    return Explanation(event, price, lines, factor, total, round_up(total), round_up(total, event.markup_scaled))


def exact_usd(scaled: int) -> str:
    """A plain decimal of USD of an amount in nano-USD / `COST_SCALE`, every digit and no trailing zero."""
    return decimal(scaled, EXACT_DECIMALS)


def decimal(scaled: int, decimals: int) -> str:
    """A plain decimal of an integer that is not below zero and is scaled by 10^`decimals`."""
    whole, fraction = divmod(scaled, 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def format_explanation(explanation: Explanation) -> str:
    """The explanation for people, line by line."""
    event, price = explanation.event, explanation.price
    told = [
        f"Request {event.request_id}",
        _line("when", rfc3339(event.admitted_at)),
        _line(
            "account", f"{event.account_id}, key {event.key_id}" + (f", user {event.user_id}" if event.user_id else "")
        ),
        _line("model", f"{event.model}, served by {event.provider} as {event.provider_model}"),
        _line("outcome", _outcome(event)),
    ]
    if price is None:
        told.append(_line("price", f"{event.price_id or 'none'}: the ledger has no such row"))
    else:
        told.append(_line("price", f"{price.id}: {price.provider}/{price.model} from {price.effective_from}"))
    if explanation.factor_scaled != FACTOR_SCALE:
        factor = decimal(explanation.factor_scaled, FACTOR_DECIMALS)
        told.append(_line("multiplier", f"{event.multiplier}, each line times {factor}"))
    told += [_line("", _arithmetic(line)) for line in explanation.lines]
    told += [
        _line("sum", f"{exact_usd(explanation.sum_scaled)} USD"),
        _line("cost", f"{format_usd(explanation.cost_nano)} USD: the sum, rounded up to 0.000000001"),
        _line(
            "charged",
            f"{format_usd(explanation.charged_nano)} USD: the sum plus a markup of "
            f"{decimal(event.markup_scaled, FACTOR_DECIMALS)} %, rounded up to 0.000000001",
        ),
    ]
    if not explanation.adds_up:
        cost, charged = format_usd(event.cost_nano), format_usd(event.charged_nano)
        told.append(_line("ledger", f"has cost {cost} USD and charged {charged} USD: not made from these counts"))
    if event.note:
        told.append(_line("note", event.note))
    return "\n".join(told)


def _outcome(event: UsageEvent) -> str:
    said = f"{event.outcome}, HTTP {event.status}"
    return said + (", counts estimated" if event.estimated else "")


def _arithmetic(line: PriceLine) -> str:
    per = "a million" if line.per_million else "each"
    price = f"{format_usd(line.rate_nano)} USD {per}"
    return f"{line.price_class:<{_NAME}} {line.quantity:>12} at {price} = {exact_usd(line.amount_scaled)} USD"


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"
