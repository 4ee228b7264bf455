"""Explanations: how a usage event came to its amount, from the price row that it names. Pure.

The lines of a charge are exact, in 1e-24 USD; their sum is rounded up once. An amount that was not made from counts
(a hold that was charged whole, an expired request) has no lines that add up to it, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from billing.ledger.debits import NAMED, UsageEvent
from billing.money import USD_DECIMALS, ceil_div, decimal, format_usd
from billing.pricing import COST_SCALE, FACTOR_SCALE, MARKUP_DECIMALS, marked_up, round_up
from billing.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from billing.pricing import PriceLine, PriceRow

# Decimals that an exact amount is shown with: those of nano-USD, of a million tokens and of a factor. An amount by the
# hour that has more is shown rounded up to them.
EXACT_DECIMALS: Final = 24
_SHOWN: Final = COST_SCALE // 10 ** (EXACT_DECIMALS - USD_DECIMALS)
# Classes that are counted in thousandths.
QUANTITY_DECIMALS: Final = {"second": 3, "hour": 3, "unit": 3, "million": 3}
FACTOR_DECIMALS: Final = len(str(FACTOR_SCALE)) - 1
_LABEL: Final = 14
_NAME: Final = 14
_PER: Final = {"hour": "an hour", "second": "a second", "million": "a million"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """An event, the price row that it names (None if the ledger has no such row) and the arithmetic of its amount.

    `lines` already contain the multiplier; `sum_scaled` is theirs, in nano-USD / `billing.pricing.COST_SCALE`.
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
        """Return whether the arithmetic gives what the ledger holds."""
        return (self.cost_nano, self.charged_nano) == (self.event.cost_nano, self.event.charged_nano)


def explain(event: UsageEvent, price: PriceRow | None, prices: Mapping[str, PriceRow] | None = None) -> Explanation:
    """Return the arithmetic of an event by the price row that it names; where several models used something, by those
    of `prices`, by id, that its shares name."""
    if event.shares:
        known = prices or {}
        lines = tuple(
            replace(line, model=share.model)
            for share in event.shares
            if share.price_id in known
            for line in known[share.price_id].lines(share.usage, share.variant)
        )
    else:
        lines = tuple(price.lines(event.usage, event.multiplier)) if price else ()
    factor = price.factor(event.multiplier) if price else FACTOR_SCALE
    total = sum(line.amount_scaled for line in lines)
    return Explanation(event, price, lines, factor, total, round_up(total), round_up(total, event.markup_scaled))


def shown_amounts(lines: Iterable[PriceLine], markup_scaled: int = 0) -> list[str]:
    """Return the amounts of lines with a markup, exact as plain decimals of USD: their sum, rounded up once, is what
    all lines come to."""
    amounts, sum_before, total = [], 0, 0
    decimals = EXACT_DECIMALS + (MARKUP_DECIMALS if markup_scaled else 0)
    for line in lines:
        total += marked_up(line.amount_scaled, markup_scaled) if markup_scaled else line.amount_scaled
        shown = ceil_div(total, _SHOWN)  # of the sum, so that amounts by the hour, which may not end, round up once
        amounts.append(decimal(shown - sum_before, decimals))
        sum_before = shown
    return amounts


def exact_usd(scaled: int) -> str:
    """Return a plain decimal of USD of an amount in nano-USD / `COST_SCALE`, every digit and no trailing zero."""
    return decimal(ceil_div(scaled, _SHOWN), EXACT_DECIMALS)


def format_explanation(explanation: Explanation) -> str:
    """Return the explanation as text, line by line."""
    event, price = explanation.event, explanation.price
    lines = [
        f"Request {event.request_id}",
        _line("when", rfc3339(event.admitted_at)),
        _line(
            "account", f"{event.account_id}, key {event.key_id}" + (f", user {event.user_id}" if event.user_id else "")
        ),
        _line("model", f"{event.model}, served by {event.provider} as {event.provider_model}"),
        _line("outcome", _outcome(event)),
    ]
    if event.price_id == NAMED:
        lines.append(_line("price", "none: the service that charged it has named the amount"))
    elif price is None:
        lines.append(_line("price", f"{event.price_id or 'none'}: the ledger has no such row"))
    else:
        lines.append(_line("price", f"{price.id}: {price.provider}/{price.model} from {price.effective_from}"))
    if explanation.factor_scaled != FACTOR_SCALE:
        factor = decimal(explanation.factor_scaled, FACTOR_DECIMALS)
        lines.append(_line("multiplier", f"{event.multiplier}, each line times {factor}"))
    elif event.multiplier:
        lines.append(_line("variant", event.multiplier))
    lines += [_line("", _arithmetic(line)) for line in explanation.lines]
    lines += [
        _line("sum", f"{exact_usd(explanation.sum_scaled)} USD"),
        _line("cost", f"{format_usd(explanation.cost_nano)} USD: the sum, rounded up to 0.000000001"),
        _line(
            "charge",
            f"{format_usd(explanation.charged_nano)} USD: the sum plus a markup of "
            f"{decimal(event.markup_scaled, FACTOR_DECIMALS)}%, rounded up to 0.000000001",
        ),
    ]
    if not explanation.adds_up:
        cost, charged = format_usd(event.cost_nano), format_usd(event.charged_nano)
        lines.append(
            _line("ledger", f"has a cost of {cost} USD and a charge of {charged} USD: not made from these counts")
        )
    if event.note:
        lines.append(_line("note", event.note))
    return "\n".join(lines)


def _outcome(event: UsageEvent) -> str:
    outcome = f"{event.outcome}, HTTP {event.status}"
    return outcome + (", counts estimated" if event.estimated else "")


def _arithmetic(line: PriceLine) -> str:
    per = "a million" if line.per_million else _PER.get(line.price_class, "each")
    price, quantity = f"{format_usd(line.rate_nano)} USD {per}", shown_quantity(line)
    unit = " s" if line.price_class in ("second", "hour") else ""
    text = f"{line.price_class:<{_NAME}} {quantity + unit:>12} at {price} = {exact_usd(line.amount_scaled)} USD"
    return f"{text} ({line.model})" if line.model is not None else text


def shown_quantity(line: PriceLine) -> str:
    """Return a line's quantity as a plain decimal: tokens, units or seconds."""
    return decimal(line.quantity, QUANTITY_DECIMALS.get(line.price_class, 0))


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}}{text}"
