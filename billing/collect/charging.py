"""What the bytes of an account cost. Pure.

The charge of an account is a function of its bytes by price, whenever and in whatever portions they came: bytes that
are included are taken off of the dearest ones first, what is left costs its rate, rounded up to the nano-USD once for
each price. A debit is what that has risen by. More bytes never cost less: those that are included only move to
dearer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from billing.ledger.debits import NAMED
from billing.money import ceil_div
from billing.pricing.scales import COST_SCALE, FACTOR_SCALE
from billing.pricing.table import METER_PROVIDER
from billing.principals import SERVICE_KEY
from billing.usage import Usage

if TYPE_CHECKING:
    from billing.pricing.table import PriceTable

# The meter of traffic, also the feature that quotas count it under and the model of its debits.
METER: Final = "bytes"
# What debits of traffic name as their endpoint.
ENDPOINT: Final = "/v1/jobs/collect-and-rate"
# Stands for the key of debits of traffic, which has none.
KEY: Final = f"{SERVICE_KEY}collector"
PER_BYTE: Final = "per_byte"
_MINUTES_OF_HOUR: Final = 60


@dataclass(frozen=True, slots=True)
class ByteRate:
    """A price of a byte: `scaled` in nano-USD times `COST_SCALE`; `key` names it for good, `price_id` is the row of the
    table of prices, and `variant` that of the row."""

    key: str
    scaled: int
    price_id: str = NAMED
    variant: str | None = None


def rate_of(prices: PriceTable, per_byte_scaled: int, region: str, at: datetime) -> ByteRate:
    """Return the price of a byte in a region at a time: by the row of the meter `bytes` and its variants by region,
    else `per_byte_scaled` (PRICE_PER_BYTE, in nano-USD times `FACTOR_SCALE`)."""
    row = prices.find(METER_PROVIDER, METER, at.timestamp())
    if row is None or row.per_unit.keys().isdisjoint(("unit", "million")):
        return ByteRate(f"{PER_BYTE}:{per_byte_scaled}", per_byte_scaled * (COST_SCALE // FACTOR_SCALE))
    minute = at.hour * _MINUTES_OF_HOUR + at.minute
    variant = row.variant(region=region or None, minute=minute)
    scaled = row.cost_scaled(Usage(requests=0, unit_thousandths=1000), variant)
    return ByteRate(f"{row.id}|{variant or ''}", scaled, row.id, variant)


def charge(bytes_by_rate: Mapping[tuple[int, str], int], included_bytes: int) -> int:
    """Return nano-USD of all bytes of an account, by (rate, key of the price)."""
    total = 0
    for (rate, _), count in sorted(bytes_by_rate.items(), reverse=True):
        free = min(max(included_bytes, 0), count) if count > 0 else 0
        included_bytes -= free
        total += ceil_div((count - free) * rate, COST_SCALE)
    return total


@dataclass(slots=True)
class Charged:
    """What an account has used by price, and was charged for it. `changed` has the prices that more was used of."""

    included_bytes: int
    charged_nano: int
    bytes_by_rate: dict[tuple[int, str], int]

    def add(self, rate: ByteRate, count: int) -> int:
        """Count so many bytes of a price; return what the charge has risen by, below zero where it has fallen. Bytes
        that were counted too many, and were charged by a price that has changed since, are taken off of the dearest
        ones: nothing is given back that was not charged."""
        key = rate.scaled, rate.key
        have = self.bytes_by_rate.get(key, 0) + count
        self.bytes_by_rate[key], lacking = max(have, 0), max(-have, 0)
        for other in sorted(self.bytes_by_rate, reverse=True):
            taken = min(lacking, max(self.bytes_by_rate[other], 0))
            self.bytes_by_rate[other] -= taken
            lacking -= taken
        before, self.charged_nano = self.charged_nano, charge(self.bytes_by_rate, self.included_bytes)
        return self.charged_nano - before


# The price of a byte in a region at a time.
RateOf = Callable[[str, datetime], ByteRate]
