"""A metered request in the ledger: `Debit` as it is written and `UsageEvent` as it is read back, and its usage: counts
with a column of their own, the others as JSON, and shares of several models. Pure.

Gateways of two releases share one journal, and read and write counts side by side: the name of a count is never given
another meaning. Fields of `Debit` are only ever appended: a release ignores those that it does not know, and gives
those that are missing their defaults. Where that would lose something, the newer release raises LAYOUT, and older ones
leave its debits to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final, Literal

import msgspec

from billing.errors import NewerLayout as NewerLayout
from billing.errors import Unreadable as Unreadable
from billing.usage import COUNT_NAMES, ModelUsage, TextUsage, Usage, total

OWN_COLUMNS: Final = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
OTHER_COUNTS: Final = tuple(name for name in COUNT_NAMES if name not in OWN_COLUMNS and name != "requests")
_other_counts_of: Final = attrgetter(*OTHER_COUNTS, "named", "reported_cost_usd", "unit_thousandths")


class ModelShare(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one of several models used for a request, as `by_model` keeps it: its counts by their names in
    `billing.usage`, the price row that they are charged by, and the variant of that row."""

    model: str
    price_id: str
    counts: dict[str, int | str | dict[str, int]]
    variant: str | None = None

    @property
    def usage(self) -> Usage:
        """Return the usage of the share."""
        return _usage_from(self.counts)


_shares: Final = msgspec.json.Decoder(list[ModelShare])


def share_of(model: str, usage: Usage, price_id: str, variant: str | None) -> ModelShare:
    """Return the share of one model."""
    counts = {name: count for name in COUNT_NAMES if (count := getattr(usage, name)) or name == "requests"}
    return ModelShare(model, price_id, {**counts, **_not_counts(usage)}, variant)


def encode_shares(shares: Sequence[ModelShare]) -> str:
    """Return the `by_model` of a debit."""
    return msgspec.json.encode(shares).decode()


def decode_shares(by_model: str | None) -> list[ModelShare]:
    """Return what each model used, from the `by_model` of a debit; nothing where one model did it all. Raises
    `msgspec.ValidationError`."""
    return [] if by_model is None else _shares.decode(by_model)


def decode_shares_of(by_model: object) -> list[ModelShare]:
    """Return what each model used, from the `by_model` of a row. Raises `msgspec.ValidationError`."""
    return [] if by_model is None else msgspec.convert(by_model, list[ModelShare])


def total_usage(usage: Usage, others: Sequence[ModelUsage]) -> Usage:
    """Return the usage of a whole answer: its counts are what windows count and the columns of the ledger show."""
    return total([usage, *(other.usage for other in others)]) if others else usage


def _not_counts(usage: Usage) -> dict[str, int | str | dict[str, int]]:
    values: dict[str, int | str | dict[str, int]] = {}
    if usage.named:
        values["named"] = dict(usage.named)
    if usage.reported_cost_usd is not None:
        values["reported_cost_usd"] = usage.reported_cost_usd
    if usage.unit_thousandths is not None:
        values["unit_thousandths"] = usage.unit_thousandths
    return values


def other_counts(usage: Usage) -> str | None:
    """Return the counts of a usage that have no column of their own, as JSON; None where all are zero."""
    if type(usage) is TextUsage or not any(_other_counts_of(usage)):
        return None
    counts = {name: count for name in OTHER_COUNTS if (count := getattr(usage, name))}
    return msgspec.json.encode({**counts, **_not_counts(usage)}).decode()


def usage_of(row: msgspec.Struct | dict[str, object], counts: Mapping[str, object] | None) -> Usage:
    """Return the usage that a stored row describes: its own columns and the counts beside them. Raises `UsageError`,
    and `TypeError` for a count that only a newer release knows."""
    columns = row if isinstance(row, dict) else msgspec.structs.asdict(row)
    return _usage_from({**{name: columns[name] for name in OWN_COLUMNS}, **(counts or {})})


def _usage_from(counts: Mapping[str, object]) -> Usage:
    return Usage(**counts)  # type: ignore[arg-type]


Outcome = Literal["settled", "expired"]
# The newest layout of a debit in the journal that this release reads, and the one that it writes.
LAYOUT: Final = 1
# In place of a price row's id where another service has named the amount.
NAMED: Final = "named"
# The scope of idempotency keys of corrections by another price: a key is `reprice:REQUEST_ID:PRICE_ID`.
REPRICE: Final = "reprice"


class Debit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row of usage_events. Amounts in nano-USD, times in milliseconds. What is not given is none, zero or empty.

    Give its fields by name. Only a request's debit (`gateway.proxy.context`) gives them by place, as they are stored:
    msgspec looks for each name among all of them, which takes 11 us instead of 0.2.

    `counts` and `tags` are JSON objects as text, or None; `by_model` is a JSON list of what each model used where
    several did, the first of them `provider_model`: the counts of the debit are their totals.

    Encoded as a MessagePack array it is the journal's payload, so the order of the fields is stored:
    append to it, and never move or remove one. `layout` says by which rules.
    """

    request_id: str
    admitted_at_ms: int
    outcome: Outcome
    account_id: str
    user_id: str | None = None
    key_id: str = ""
    client_request_id: str | None = None
    upstream_request_id: str | None = None
    endpoint: str = ""
    feature: str = ""
    model: str = ""
    provider: str = ""
    provider_model: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    counts: str | None = None
    cost_nano: int = 0
    charged_nano: int = 0
    price_id: str = ""
    multiplier: str | None = None
    markup_scaled: int = 0
    estimated: bool = False
    status: int = 0
    stream: bool = False
    latency_ms: int | None = None
    ttft_ms: int | None = None
    tags: str | None = None
    end_user: str | None = None
    note: str | None = None
    epoch: int | None = None
    dseq: int | None = None
    layout: int = LAYOUT
    by_model: str | None = None
    session: str | None = None
    agent: str | None = None
    parent_agent: str | None = None
    tool: str | None = None
    tool_version: str | None = None


_LAYOUT_PLACE: Final = Debit.__struct_fields__.index("layout")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Debit)
encode_debit = _encoder.encode


def decode_debit(payload: bytes) -> Debit:
    """Return the debit of a journal's payload.

    Raises `NewerLayout`, and `Unreadable` for anything else that is no debit.
    """
    try:
        debit = _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError) as error:
        raise (NewerLayout if _layout_of(payload) > LAYOUT else Unreadable)(f"not a debit: {error}") from error
    if debit.layout > LAYOUT:
        raise NewerLayout(f"a debit of layout {debit.layout}")
    return debit


def _layout_of(payload: bytes) -> int:
    """Return the version of the layout that a payload names, even if the rest can't be read; 0 if it names none."""
    try:
        fields = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, ValueError):
        return 0
    layout = fields[_LAYOUT_PLACE] if isinstance(fields, list) and len(fields) > _LAYOUT_PLACE else 0
    return layout if isinstance(layout, int) else 0


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """A row of usage_events. `cost_nano` is the provider's, `charged_nano` the customer's.

    `markup_scaled` is in percent times `billing.pricing.FACTOR_SCALE`. `outcome` is `settled`, or `expired` for a
    request whose gateway died.
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
    shares: tuple[ModelShare, ...] = ()
    """What each of several models used; empty where one did it all."""
    session: str | None = None
    agent: str | None = None
    parent_agent: str | None = None
    tool: str | None = None
    tool_version: str | None = None
