"""A usage event on its way out. Pure.

Events never change once they are written, so that an event is the same whenever it is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from billing.money import format_usd

# A cent is 10^7 nano-USD.
CENT_DIGITS: Final = 7
# What of an event can be summed by hour; amounts in nano-USD.
MEASURES: Final = (
    "requests",
    "total_tokens",
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "charged_nano",
    "cost_nano",
)
HOUR: Final = timedelta(hours=1)


class ExportEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A row of usage_events. `wseq` is its place among all that were written; None: from before these were counted.
    `input_tokens` includes the cached ones, `output_tokens` reasoning. Amounts in nano-USD."""

    wseq: int | None
    request_id: str
    admitted_at: datetime
    created_at: datetime
    account_id: str
    user_id: str | None
    key_id: str
    endpoint: str
    feature: str
    model: str
    provider: str
    provider_model: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    counts: Mapping[str, Any] | None
    cost_nano: int
    charged_nano: int
    price_id: str
    estimated: bool
    status: int
    stream: bool
    latency_ms: int | None
    ttft_ms: int | None
    tags: Any
    end_user: str | None

    @property
    def hour(self) -> datetime:
        """Return the beginning of the hour, in UTC, in which it was admitted."""
        return self.admitted_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)

    def measure(self, name: str) -> int:
        """Return how much of one of `MEASURES` it has used."""
        if name == "requests":
            return 1
        if name == "total_tokens":
            return self.input_tokens + self.output_tokens
        return int(getattr(self, name))


def unix_s(at: datetime) -> str:
    """Return a time in Unix seconds with milliseconds, as a decimal."""
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since // timedelta(milliseconds=1)
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def cents(nano: int) -> str:
    """Return an amount above or at zero in cents, exactly: 12_345_678 -> `"1.2345678"`."""
    digits = f"{nano:0{CENT_DIGITS + 1}d}"
    fraction = digits[-CENT_DIGITS:].rstrip("0")
    return f"{digits[:-CENT_DIGITS]}.{fraction}" if fraction else digits[:-CENT_DIGITS]


def units(event: ExportEvent) -> dict[str, int]:
    """Return the counts of an event other than tokens, such as images or milliseconds, and the units of services by
    name."""
    found: dict[str, int] = {}
    for name, count in (event.counts or {}).items():
        if isinstance(count, int):
            found[name] = count
        elif name == "named" and isinstance(count, Mapping):
            found |= {str(each): value for each, value in count.items() if isinstance(value, int)}
    return found


def tags(event: ExportEvent) -> dict[str, str]:
    """Return the event's tags as texts."""
    return {str(name): str(value) for name, value in event.tags.items()} if isinstance(event.tags, Mapping) else {}


def properties(event: ExportEvent) -> dict[str, Any]:
    """Return the properties of an event that are sent, as JSON; amounts are decimals of USD. Unknown ones are left
    out."""
    charge_usd = format_usd(event.charged_nano)
    fields = {
        "model": event.model,
        "provider": event.provider,
        "provider_model": event.provider_model,
        "endpoint": event.endpoint,
        "feature": event.feature,
        "key_id": event.key_id,
        "user_id": event.user_id,
        "end_user": event.end_user,
        "input_tokens": event.input_tokens,
        "cached_input_tokens": event.cached_input_tokens,
        "cache_write_tokens": event.cache_write_tokens,
        "output_tokens": event.output_tokens,
        "reasoning_tokens": event.reasoning_tokens,
        "total_tokens": event.measure("total_tokens"),
        "cost_usd": format_usd(event.cost_nano),
        "charge_usd": charge_usd,
        "charged_usd": charge_usd,
        "price_id": event.price_id,
        "estimated": event.estimated,
        "status": event.status,
        "stream": event.stream,
    }
    return {name: value for name, value in fields.items() if value is not None}


def flat_properties(event: ExportEvent) -> dict[str, str | int]:
    """Return the same in one level, of texts and numbers alone: `tag_NAME` and `unit_NAME` beside the others."""
    flat: dict[str, str | int] = {}
    for name, value in properties(event).items():
        flat[name] = str(value).lower() if isinstance(value, bool) else value
    flat |= {f"unit_{name}": count for name, count in units(event).items()}
    return flat | {f"tag_{name}": value for name, value in tags(event).items()}
