"""Usage as the ledger keeps it: counts with a column of their own, the others as JSON, and shares of several models.

Two releases read and write these side by side: a name of a count is never given another meaning. Pure.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Final

import msgspec

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
