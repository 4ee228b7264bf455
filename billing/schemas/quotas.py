"""Quotas as the API takes and answers them, and what is left of each. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from billing.money import MAX_NANO
from billing.quotas import MAX_NAME, MAX_QUOTAS, Metric, Quota, Window, quota_json
from billing.schemas.base import USD_PATTERN, Answer, Moment, Usd, shown

_METRICS: Final = list(Metric.__members__)
_METRICS.remove("cost")
_NAMES: Final = {
    "window": {"enum": list(Window.__members__)},
    "model": {"type": ["string", "null"], "pattern": f"^([^*]{{1,{MAX_NAME - 1}}}[*]?|[*])$"},
    "feature": {"type": ["string", "null"], "maxLength": MAX_NAME},
}
_QUOTA: Final = {
    "type": "object",
    "required": ["window", "metric", "limit"],
    "oneOf": [
        {
            "properties": _NAMES
            | {"metric": {"enum": _METRICS}, "limit": {"type": "integer", "minimum": 0, "maximum": MAX_NANO}},
            "additionalProperties": False,
        },
        {
            "properties": _NAMES | {"metric": {"const": "cost"}, "limit": {"type": "string", "pattern": USD_PATTERN}},
            "additionalProperties": False,
        },
    ],
    "examples": [{"window": "day", "metric": "tokens", "limit": 200000}],
}
_QUOTAS_SCHEMA: Final = {"maxItems": MAX_QUOTAS, "uniqueItems": True, "items": _QUOTA}
# Quotas in a body are taken as they come and parsed by `billing.quotas`.
QuotasBody = Annotated[Any, Meta(extra_json_schema={"type": "array", **_QUOTAS_SCHEMA})]
QuotasOrNull = Annotated[Any, Meta(extra_json_schema={"type": ["array", "null"], **_QUOTAS_SCHEMA})]


class QuotaShape(Answer, frozen=True, kw_only=True):
    """At most `limit` of a metric in a window, of every model or of those with a name or `prefix*`."""

    window: Annotated[str, Meta(extra_json_schema={"enum": list(Window.__members__)})]
    metric: Annotated[str, Meta(extra_json_schema={"enum": list(Metric.__members__)})]
    limit: Annotated[int | str, Meta(description="a decimal string of USD for `cost`, else an integer")]
    model: str | UnsetType = UNSET
    feature: str | UnsetType = UNSET


@shown.register
def _(quota: Quota) -> QuotaShape:
    return msgspec.convert(quota_json(quota), QuotaShape)


class WindowShape(Answer, frozen=True, kw_only=True):
    """What is left of a quota. `held` is what running requests may still use; `resets_at` is null for `total`."""

    subject: Literal["key", "plan", "account", "user"]
    window: str
    metric: str
    model: str | None
    limit: int | Usd
    used: int | Usd
    held: int | Usd
    remaining: int | Usd
    resets_at: Moment | None
